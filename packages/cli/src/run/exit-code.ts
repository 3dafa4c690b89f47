import type { CommandOutcome } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'

/** As timeout(1) of coreutils says it. */
const TIMED_OUT = 124
const KILLED = 137

/**
 * The exit code of a run: the command's own, where it has one that tells. What ended it otherwise gets a code and a line
 * on stderr. `cancelledCode` is undefined where nobody here cancelled it.
 */
export const exitCodeOf = (
  result: Pick<CommandOutcome, 'status' | 'exitCode' | 'message'>,
  options: { timeoutMs: number; cancelledCode: number | undefined },
): number => {
  switch (result.status) {
    case 'succeeded':
    case 'failed':
      // One that was never started could not say why itself.
      if (result.message !== undefined) throw new ExitError(result.exitCode ?? EXIT.failure, result.message)
      return result.exitCode ?? EXIT.failure
    case 'timeout':
      throw new ExitError(
        TIMED_OUT,
        `the command ran longer than ${options.timeoutMs} ms and was ended`,
        'Allow more with --timeout.',
      )
    case 'oom':
      throw new ExitError(KILLED, 'the command ran out of memory and was ended', 'Allow more with --memory.')
    case 'cancelled':
      if (options.cancelledCode !== undefined) return options.cancelledCode
      throw new ExitError(
        EXIT.failure,
        'the command was cancelled on its node',
        'The node was stopped, or somebody cancelled it there.',
      )
    case 'error':
      throw new ExitError(EXIT.failure, result.message ?? 'the command could not be run')
    default:
      return result.status satisfies never
  }
}
