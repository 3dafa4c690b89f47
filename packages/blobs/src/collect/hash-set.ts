import type { BlobHash } from '@bramble/protocol'

const smallest = 1024
const fullShare = 0.7
const slotWords = 2

/**
 * Hashes by their first 64 bits, in 8 to 24 bytes each (strings would take 100). It may hold one that was never added, once in
 * 2^64 / size; never the other way round: whoever keeps what is in it keeps enough.
 */
export interface HashSet {
  add(hash: BlobHash): void
  has(hash: BlobHash): boolean
  readonly size: number
}

export const hashSet = (): HashSet => {
  /** Two words a slot; a slot of zeros is free, and stands for no hash: the one of 64 zero bits is kept aside. */
  let slots = new Uint32Array(smallest * slotWords)
  let count = 0
  let zero = false

  /** Where the words are, or are to be. */
  const find = (table: Uint32Array, high: number, low: number): number => {
    const mask = table.length / slotWords - 1
    for (let slot = low & mask; ; slot = (slot + 1) & mask) {
      const at = slot * slotWords
      const [a = 0, b = 0] = [table[at], table[at + 1]]
      if ((a === high && b === low) || (a === 0 && b === 0)) return at
    }
  }
  const grow = (): void => {
    const larger = new Uint32Array(slots.length * 2)
    for (let at = 0; at < slots.length; at += slotWords) {
      const [high = 0, low = 0] = [slots[at], slots[at + 1]]
      if (high !== 0 || low !== 0) larger.set([high, low], find(larger, high, low))
    }
    slots = larger
  }
  const wordsOf = (hash: BlobHash): [number, number] => [
    Number.parseInt(hash.slice(0, 8), 16),
    Number.parseInt(hash.slice(8, 16), 16),
  ]

  return {
    add: (hash) => {
      const [high, low] = wordsOf(hash)
      if (high === 0 && low === 0) {
        zero = true
        return
      }
      const at = find(slots, high, low)
      if (slots[at] !== 0 || slots[at + 1] !== 0) return
      slots[at] = high
      slots[at + 1] = low
      count++
      if (count > (slots.length / slotWords) * fullShare) grow()
    },
    has: (hash) => {
      const [high, low] = wordsOf(hash)
      if (high === 0 && low === 0) return zero
      const at = find(slots, high, low)
      return slots[at] === high && slots[at + 1] === low
    },
    get size() {
      return count + (zero ? 1 : 0)
    },
  }
}
