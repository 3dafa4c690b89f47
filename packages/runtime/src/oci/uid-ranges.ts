import { BrambleError } from '@bramble/protocol'
import { IDS_PER_SANDBOX } from './config.ts'

/** First host id of the ranges: above what distributions give to people and to subordinate ids (login.defs(5)). */
const FIRST_UID = 0x2000_0000
const MAX_RANGES = 16_384

/**
 * The ranges of host ids of one node. No two sandboxes of a node alive at once share host ids, so limits that the kernel
 * keeps by user stay apart. A range is named by its first id.
 */
export interface UidRanges {
  /** One that nobody has, used ones first. */
  take(): number
  /** Takes the range of a sandbox that runs already. One that is not of ours is nobody's to take. */
  claim(base: number): void
  /** Gives one back. One that is not taken is left alone; one that is a network's is its to give again. */
  release(base: number): void
}

/** `firstRange`: where this node begins to count, so that the nodes of one host seldom share host ids either. */
export const uidRanges = (firstRange: number): UidRanges => {
  const taken = new Set<number>()
  const free: number[] = []
  let next = 0
  const baseOf = (index: number): number => FIRST_UID + ((firstRange + index) % MAX_RANGES) * IDS_PER_SANDBOX
  return {
    take: () => {
      let base = free.pop()
      // Some of those not yet used, or given back, are those of sandboxes that were there before us.
      while (base === undefined || taken.has(base)) {
        if (base === undefined && next === MAX_RANGES)
          throw new BrambleError('sandbox_failed', { detail: `more than ${MAX_RANGES} sandboxes` })
        base = free.pop() ?? baseOf(next++)
      }
      taken.add(base)
      return base
    },
    claim: (base) => {
      taken.add(base)
    },
    release: (base) => {
      if (taken.delete(base) && base >= FIRST_UID && base < FIRST_UID + MAX_RANGES * IDS_PER_SANDBOX) free.push(base)
    },
  }
}
