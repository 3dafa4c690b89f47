import { Bramble, type ExecutionResult } from '@bramble/sdk'

export interface FirstCommand {
  readonly command: readonly string[]
  readonly stdout: string
  readonly exitCode: number | null
  /** From the request to the answer, over HTTP. */
  readonly tookMs: number
  readonly runtime: string
}

const COMMAND = ['echo', 'hello']
const prewarmTimeoutMs = 20_000

/**
 * Runs the first command of a new node, over HTTP and with the key, as its users will. A sandbox is made ahead, as the
 * node does from then on, and the connection is opened, so that the time shown is that of the second user, not of the
 * start.
 */
export const runFirstCommand = async (
  node: { url: string; adminKey: string | undefined },
  signal: AbortSignal,
): Promise<FirstCommand> => {
  const bramble = new Bramble({ url: node.url, ...(node.adminKey !== undefined && { apiKey: node.adminKey }) })
  const waiting = AbortSignal.any([signal, AbortSignal.timeout(prewarmTimeoutMs)])
  await bramble.prewarm({ count: 1 }, { signal: waiting })
  const began = performance.now()
  const result: ExecutionResult = await bramble.run(COMMAND, { signal })
  const tookMs = performance.now() - began
  return { command: COMMAND, stdout: result.stdout, exitCode: result.exitCode, tookMs, runtime: result.runtime }
}
