import type { ExecutionResult, ExecutionSpecInput } from '@bramble/protocol'
import { EXIT, ExitError } from '../exit.ts'
import { Interrupted } from '../node/interrupt.ts'
import { shortId } from '../snapshots/snapshot-columns.ts'
import { exitCodeOf } from './exit-code.ts'
import type { LiveRun } from './live-run.ts'
import { processOutput } from './output.ts'

/** 128 + SIGPIPE: what a program gets that writes where nobody reads any more. */
const NOBODY_READS = 141
const DEFAULT_TIMEOUT_MS = 60_000

export interface LiveOptions {
  /** The result at the end, instead of the output as it comes. */
  readonly json: boolean
  /** How long the command may run, where that was said. */
  readonly timeoutMs: number | undefined
}

/** Runs a command for the user of this process: its output is this process's, and so is its exit code. */
export const runLive = async (
  run: LiveRun,
  spec: ExecutionSpecInput,
  { json, timeoutMs = DEFAULT_TIMEOUT_MS }: LiveOptions,
  interrupted: AbortSignal,
): Promise<void> => {
  const output = processOutput()
  let result: ExecutionResult | undefined
  for await (const event of run(spec, AbortSignal.any([interrupted, output.readerGone]))) {
    if (event.type === 'result') result = event.result
    else if (!json) {
      const wait = output.write(event.type, event.data)
      if (wait !== undefined) await wait
    }
  }
  if (result === undefined) throw new ExitError(EXIT.failure, 'the command ended without a result')
  if (json) await output.write('stdout', `${JSON.stringify(result, null, 2)}\n`)
  // Whoever asked for it needs its id; the output of the command stays the command's own.
  else if (result.snapshotId !== undefined) await output.write('stderr', snapshotText(result))
  const { reason } = interrupted
  const cancelledCode =
    reason instanceof Interrupted ? reason.exitCode : output.readerGone.aborted ? NOBODY_READS : undefined
  process.exitCode = exitCodeOf(result, { timeoutMs, cancelledCode })
}

/** Its id alone on a line: scripts look for it. */
const snapshotText = ({ snapshotId = '', snapshotExpiresAt }: ExecutionResult): string => {
  const line = `bramble: snapshot ${snapshotId}\n`
  if (snapshotExpiresAt === undefined) return line
  const until = snapshotExpiresAt.replace(/\.\d+Z$/, 'Z')
  return `${line}  It goes at ${until}, unless \`bramble snapshot set ${shortId(snapshotId)} --name <name>\` names it.\n`
}
