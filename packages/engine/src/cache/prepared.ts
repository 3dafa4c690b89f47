import type { ExecutionResult, Timings } from '@bramble/protocol'
import { NO_USAGE } from '../outcome.ts'

/** What every answer has for itself. */
export interface Own {
  readonly id: ExecutionResult['id']
  readonly timings: Timings
  readonly startedAt: string
  readonly finishedAt: string
}

/** A result as those get it for whom nothing ran. */
export const asCached = (result: ExecutionResult): ExecutionResult => ({
  ...result,
  mode: 'cached',
  cached: true,
  usage: NO_USAGE,
})

/** The JSON of a result without its opening brace and the members of `Own`. */
export const jsonTailOf = (result: ExecutionResult): string => {
  const { id: _id, timings: _timings, startedAt: _startedAt, finishedAt: _finishedAt, ...rest } = result
  return JSON.stringify(rest).slice(1)
}

/** The JSON of an answer: what it has for itself, then what was prepared. Ids and times need no escaping. */
export const jsonOf = (own: Own, jsonTail: string): string => {
  const { queuedMs, startMs, execMs, totalMs } = own.timings
  return `{"id":"${own.id}","timings":{"queuedMs":${queuedMs},"startMs":${startMs},"execMs":${execMs},"totalMs":${totalMs}},"startedAt":"${own.startedAt}","finishedAt":"${own.finishedAt}",${jsonTail}`
}
