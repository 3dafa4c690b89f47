import type { Job } from '@bramble/sdk'
import { EXIT, ExitError } from '../exit.ts'
import { exitCodeOf } from '../run/exit-code.ts'
import { shortId } from './short-id.ts'

/** The exit code of a job that has ended: its command's. One without a result is bramble's failure, with a line why. */
export const exitCodeOfJob = (job: Job, timeoutMs: number): number => {
  const { status, result, message } = job
  const hint = `\`bramble get ${shortId(job.id)}\` shows who said what.`
  switch (status) {
    case 'completed':
      if (result === undefined) throw new ExitError(EXIT.failure, 'the job is completed and shows no result', hint)
      return exitCodeOf({ ...result, message: undefined }, { timeoutMs, cancelledCode: undefined })
    case 'no_consensus':
      throw new ExitError(EXIT.failure, `no consensus: ${message ?? 'its nodes do not agree'}`, hint)
    case 'cancelled':
      throw new ExitError(EXIT.failure, 'the job was cancelled')
    case 'failed':
      throw new ExitError(EXIT.failure, `the job failed: ${message ?? 'no node could run it'}`, hint)
    case 'pending':
    case 'scheduled':
    case 'running':
    case 'verifying':
      throw new ExitError(EXIT.failure, `the job is ${status}`, hint)
    default:
      return status satisfies never
  }
}
