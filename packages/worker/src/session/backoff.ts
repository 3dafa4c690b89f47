const FIRST_MS = 500
const MOST_MS = 60_000

/** How long to wait before the attempt after `failures` of them: a random part of 0.5 s · 2^n, so that many do not come at once. */
export const backoffMs = (failures: number, random: () => number): number =>
  Math.round(random() * Math.min(MOST_MS, FIRST_MS * 2 ** Math.min(failures, 16)))
