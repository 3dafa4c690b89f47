import { Bramble } from '@bramble/sdk'

export interface FirstJob {
  readonly command: readonly string[]
  readonly stdout: string
  /** Nodes that agreed. */
  readonly agreed: number
  /** From the submission to the verdict, over HTTP. */
  readonly tookMs: number
}

const COMMAND = ['echo', 'hello']
const TIMEOUT_MS = 20_000

/** Submits the first job of a new network, over HTTP and with the key, as its users will. */
export const runFirstJob = async (
  { url, adminKey, nodes }: { url: string; adminKey: string; nodes: number },
  signal: AbortSignal,
): Promise<FirstJob> => {
  const bramble = new Bramble({ url, apiKey: adminKey })
  const began = performance.now()
  const { id } = await bramble.jobs.submit({ command: COMMAND, redundancy: Math.min(3, nodes) }, { signal })
  const job = await bramble.jobs.wait(id, { signal, timeoutMs: TIMEOUT_MS })
  const tookMs = performance.now() - began
  if (job.result === undefined) throw new Error(`the job ended as ${job.status}: ${job.message ?? ''}`)
  const stdout = new TextDecoder().decode(await bramble.jobs.read(job.result.stdout, { signal }))
  return { command: COMMAND, stdout, agreed: job.verification?.agreed ?? 0, tookMs }
}
