import type { Clock } from './options.ts'

/**
 * Background work (making and destroying sandboxes) costs processor time that a command just begun would feel. It waits
 * for a moment in which nothing began or ended, but only as long as whoever asks for it can afford.
 */
export interface Quiet {
  /** Something that a caller waits for began or ended. */
  touch(): void
  /** Runs `work` once it is quiet, after `withinMs` in any case. The same function asked for twice runs once. */
  whenQuiet(work: () => void, withinMs: number): void
  close(): void
}

export interface QuietOptions {
  readonly clock: Clock
  /** How long nothing must have happened. */
  readonly quietMs?: number
}

export const createQuiet = ({ clock, quietMs = 4 }: QuietOptions): Quiet => {
  const deadlines = new Map<() => void, number>()
  let timer: { timer: NodeJS.Timeout; atMs: number } | undefined
  let touchedMs = Number.NEGATIVE_INFINITY

  const arm = (): void => {
    let atMs = Number.POSITIVE_INFINITY
    for (const deadlineMs of deadlines.values()) atMs = Math.min(atMs, deadlineMs)
    if (atMs === Number.POSITIVE_INFINITY) return
    const nowMs = clock.monotonicMs()
    atMs = Math.min(atMs, Math.max(touchedMs, nowMs) + quietMs)
    if (timer && timer.atMs <= atMs) return
    clearTimeout(timer?.timer)
    timer = { timer: setTimeout(run, Math.max(0, Math.ceil(atMs - nowMs))), atMs }
  }

  const run = (): void => {
    timer = undefined
    const nowMs = clock.monotonicMs()
    const isQuiet = nowMs >= touchedMs + quietMs
    const due = [...deadlines].filter(([, deadlineMs]) => isQuiet || deadlineMs <= nowMs)
    for (const [work] of due) deadlines.delete(work)
    for (const [work] of due) work()
    arm()
  }

  return {
    touch() {
      touchedMs = clock.monotonicMs()
    },
    whenQuiet(work, withinMs) {
      const deadlineMs = clock.monotonicMs() + withinMs
      const earlier = deadlines.get(work)
      if (earlier !== undefined && earlier <= deadlineMs) return
      deadlines.set(work, deadlineMs)
      arm()
    },
    close() {
      clearTimeout(timer?.timer)
      timer = undefined
      deadlines.clear()
    },
  }
}
