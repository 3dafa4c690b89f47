/** A small generator from a seed (mulberry32): the same numbers everywhere. */
export interface Random {
  /** In [0, 1). */
  (): number
  /** From 0 to `count - 1`. */
  below(count: number): number
  chance(probability: number): boolean
  pick<T>(items: readonly T[]): T
}

export const seededRandom = (seed: number): Random => {
  let state = seed | 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
  const below = (count: number): number => Math.floor(next() * count)
  return Object.assign(next, {
    below,
    chance: (probability: number) => next() < probability,
    pick: <T>(items: readonly T[]): T => {
      const item = items[below(items.length)]
      if (item === undefined) throw new RangeError('nothing to pick from')
      return item
    },
  })
}
