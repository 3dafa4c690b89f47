/**
 * How much a pool is used lately: an exponentially decayed count of takes, which gives their rate, and a decayed peak of
 * sandboxes in use at once, which gives the size of bursts.
 */
export interface Demand {
  took(nowMs: number): void
  returned(): void
  /** How many ready sandboxes recent demand calls for, when making one takes `createMs`. */
  wanted(nowMs: number, createMs: number): number
  readonly lastMs: number
}

/** Demand this old counts for a third. */
const RATE_MEMORY_MS = 10_000
const BURST_MEMORY_MS = 120_000
/** Arrivals are not even: keep for twice the mean. */
const HEADROOM = 2

export const createDemand = (): Demand => {
  let takes = 0
  let peak = 0
  let inUse = 0
  let lastMs = Number.NEGATIVE_INFINITY

  const decayed = (value: number, nowMs: number, memoryMs: number): number =>
    value === 0 ? 0 : value * Math.exp(-(nowMs - lastMs) / memoryMs)

  return {
    took(nowMs) {
      inUse++
      takes = decayed(takes, nowMs, RATE_MEMORY_MS) + 1
      peak = Math.max(decayed(peak, nowMs, BURST_MEMORY_MS), inUse)
      lastMs = nowMs
    },
    returned() {
      if (inUse > 0) inUse--
    },
    wanted(nowMs, createMs) {
      const perMs = decayed(takes, nowMs, RATE_MEMORY_MS) / RATE_MEMORY_MS
      return Math.max(Math.round(perMs * createMs * HEADROOM + 0.25), Math.round(decayed(peak, nowMs, BURST_MEMORY_MS)))
    },
    get lastMs() {
      return lastMs
    },
  }
}
