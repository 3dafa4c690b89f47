import type { Clock } from './options.ts'

/**
 * Background work (making and destroying sandboxes) costs processor time that a command just begun would feel. It waits
 * for a moment in which nothing began or ended, but never long.
 */
export interface Quiet {
  /** Something that a caller waits for began or ended. */
  touch(): void
  /** Runs `work` once it is quiet. The same function asked for twice runs once. */
  whenQuiet(work: () => void): void
  close(): void
}

export interface QuietOptions {
  readonly clock: Clock
  /** How long nothing must have happened. */
  readonly quietMs?: number
  /** After this long the work runs anyway. */
  readonly maxDelayMs?: number
}

export const createQuiet = ({ clock, quietMs = 4, maxDelayMs = 60 }: QuietOptions): Quiet => {
  const pending = new Set<() => void>()
  let timer: NodeJS.Timeout | undefined
  let touchedMs = Number.NEGATIVE_INFINITY
  let askedMs = 0

  const run = (): void => {
    timer = undefined
    const now = clock.monotonicMs()
    const waitMs = Math.min(touchedMs + quietMs - now, askedMs + maxDelayMs - now)
    if (waitMs > 0) {
      timer = setTimeout(run, Math.ceil(waitMs))
      return
    }
    const due = [...pending]
    pending.clear()
    for (const work of due) work()
  }

  return {
    touch() {
      touchedMs = clock.monotonicMs()
    },
    whenQuiet(work) {
      if (pending.size === 0) askedMs = clock.monotonicMs()
      pending.add(work)
      timer ??= setTimeout(run, quietMs)
    },
    close() {
      clearTimeout(timer)
      timer = undefined
      pending.clear()
    },
  }
}
