import type { Clock } from '../options.ts'

/** Does not ask what has failed several times in a row, for a while that doubles with each failure after it. */
export interface Breaker {
  readonly open: boolean
  succeeded(): void
  failed(): void
}

const FAILURES = 3
const FIRST_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

export const createBreaker = (clock: Clock, onOpen: () => void): Breaker => {
  let failures = 0
  let untilMs = Number.NEGATIVE_INFINITY
  return {
    get open() {
      return clock.monotonicMs() < untilMs
    },
    succeeded() {
      failures = 0
    },
    failed() {
      failures++
      if (failures < FAILURES) return
      untilMs = clock.monotonicMs() + Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures - FAILURES, 10))
      if (failures === FAILURES) onOpen()
    },
  }
}
