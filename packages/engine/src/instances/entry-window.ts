import type { StreamEntry } from './instances.ts'

/** What an entry costs beyond its bytes, roughly, here and in the agent. */
const ENTRY_OVERHEAD_BYTES = 64
const COMPACT_AT = 1024

interface Held {
  readonly entry: StreamEntry
  /** Of all that were ever added before it. */
  readonly before: number
}

/**
 * The newest entries of a stream. An entry has a sequence number, which may skip some, and a position, which counts the
 * entries that were ever added: readers go by positions.
 */
export interface EntryWindow {
  readonly start: number
  /** The position after the newest. */
  readonly end: number
  at(position: number): StreamEntry | undefined
  /** The position of the first entry after `seq`. */
  after(seq: number): number
  add(entry: StreamEntry, bytes: number): void
  bytesFrom(position: number): number
  /** Forgets the oldest before `position` while more than `keptBytes` are held. Returns the last one forgotten. */
  trim(position: number, keptBytes: number): StreamEntry | undefined
}

export const createEntryWindow = (): EntryWindow => {
  let held: (Held | undefined)[] = []
  /** The first of `held` that is not forgotten, and its position. */
  let head = 0
  let start = 0
  let total = 0
  const end = (): number => start + held.length - head
  const heldAt = (position: number): Held | undefined => held[head + position - start]
  const bytesFrom = (position: number): number => total - (heldAt(Math.max(position, start))?.before ?? total)
  return {
    get start() {
      return start
    },
    get end() {
      return end()
    },
    at: (position) => (position < start ? undefined : heldAt(position)?.entry),
    after(seq) {
      let low = start
      let high = end()
      while (low < high) {
        const middle = (low + high) >>> 1
        if ((heldAt(middle)?.entry.seq ?? 0) <= seq) low = middle + 1
        else high = middle
      }
      return low
    },
    add(entry, bytes) {
      const cost = bytes + ENTRY_OVERHEAD_BYTES
      held.push({ entry, before: total })
      total += cost
    },
    bytesFrom,
    trim(position, keptBytes) {
      let last: StreamEntry | undefined
      while (start < Math.min(position, end()) && bytesFrom(start) > keptBytes) {
        last = heldAt(start)?.entry
        // Its bytes go now, not when the array is cut.
        held[head] = undefined
        head++
        start++
      }
      if (head >= COMPACT_AT || head === held.length) {
        held = held.slice(head)
        head = 0
      }
      return last
    },
  }
}
