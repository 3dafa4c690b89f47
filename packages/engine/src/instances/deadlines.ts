import type { Clock } from '../options.ts'

/** Timers do not hear of a clock that is set, nor of a machine that slept: so often it is looked at again. */
const MAX_DELAY_MS = 60_000

/** One timer for the nearest of many moments. */
export interface Deadlines<T> {
  /** Calls `due` with `item` at `atMs` or soon after; an earlier moment set before stays. */
  set(item: T, atMs: number): void
  forget(item: T): void
  close(): void
}

export const createDeadlines = <T>(clock: Clock, due: (item: T) => void): Deadlines<T> => {
  const moments = new Map<T, number>()
  let timer: { timer: NodeJS.Timeout; atMs: number } | undefined
  let closed = false

  const arm = (atMs: number): void => {
    if (closed || (timer && timer.atMs <= atMs)) return
    clearTimeout(timer?.timer)
    const delayMs = Math.min(MAX_DELAY_MS, Math.max(0, atMs - clock.now()))
    timer = { timer: setTimeout(fire, delayMs).unref(), atMs }
  }
  const fire = (): void => {
    timer = undefined
    const nowMs = clock.now()
    const items: T[] = []
    let nearestMs = Number.POSITIVE_INFINITY
    for (const [item, atMs] of moments) {
      if (atMs <= nowMs) items.push(item)
      else nearestMs = Math.min(nearestMs, atMs)
    }
    for (const item of items) moments.delete(item)
    if (nearestMs !== Number.POSITIVE_INFINITY) arm(nearestMs)
    for (const item of items) due(item)
  }

  return {
    set(item, atMs) {
      const earlier = moments.get(item)
      if (closed || (earlier !== undefined && earlier <= atMs)) return
      moments.set(item, atMs)
      arm(atMs)
    },
    forget: (item) => void moments.delete(item),
    close() {
      closed = true
      clearTimeout(timer?.timer)
      moments.clear()
    },
  }
}
