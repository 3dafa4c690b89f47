/** Numbers from a seed, the same on every host: xorshift32 (G. Marsaglia, "Xorshift RNGs", 2003). */
export interface Random {
  /** A whole number of at least 0 and less than `bound`. */
  below(bound: number): number
  pick<T>(list: readonly T[]): T
}

export const randomFrom = (seed: number): Random => {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 1
  const below = (bound: number): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % bound
  }
  for (let round = 0; round < 8; round++) below(1)
  return {
    below,
    pick(list) {
      const picked = list[below(list.length)]
      if (picked === undefined) throw new RangeError('there is nothing to pick from')
      return picked
    },
  }
}
