import type { BlobHash } from '@bramble/protocol'
import type { Abortable, BlobStore } from '../blob-store.ts'
import type { Step } from '../fs/disk.ts'
import type { KeyedLock } from '../keyed-lock.ts'
import type { Breaker } from './breaker.ts'
import type { UploadQueue } from './upload-queue.ts'

/** What a lower tier may offer beside a `BlobStore`. */
export interface SharedTier extends BlobStore {
  /** For people: without secrets. */
  readonly label?: string
  /** Resolves when it answers; rejects with `store_unavailable`. */
  check?(options?: Abortable): Promise<void>
  /** An id that was made with the tier: the same for every node that shares it, another in an empty one. */
  identity?(options?: Abortable): Promise<string>
  /** Whether the blob is there and need not be put again. */
  isRecent?(hash: BlobHash, options?: Abortable): Promise<boolean>
  /** Removes what killed processes left. */
  sweep?(options?: Abortable): Promise<number>
}

export type TierEvent =
  | { readonly kind: 'uploaded' | 'fetched'; readonly storedBytes: number }
  | { readonly kind: 'healed'; readonly tier: 'local' | 'shared'; readonly what: string }
  /** The only copy that is known of is damaged, or gone. */
  | { readonly kind: 'lost'; readonly what: string; readonly reason: string }
  /** An upload is tried again later. `all`: it says something of the tier, and not of this blob. */
  | { readonly kind: 'failed'; readonly what: string; readonly reason: string; readonly all: boolean }
  | { readonly kind: 'available' }
  | { readonly kind: 'unavailable'; readonly reason: string }

export interface TieredContext {
  readonly local: BlobStore
  readonly shared: SharedTier
  readonly queue: UploadQueue
  /** Before every request that somebody waits for. */
  readonly breaker: Breaker
  readonly lock: KeyedLock
  /** Blobs that the shared tier is known to have had a while ago. */
  readonly uploaded: RecentSet
  readonly observe: (event: TierEvent) => void
  readonly step: Step
  readonly now: () => number
  /** Starts what waits in the queue. */
  readonly kick: () => void
  /** Keeps `close` waiting for it. */
  readonly background: (run: Promise<unknown>) => void
  /** Whether the shared tier is known to be the one that the local tier was filled from: what lacks there, was removed. */
  readonly isBound: () => boolean
  readonly nameFreshMs: number
}

/** What happened not long ago, for at most `max` things. */
export interface RecentSet {
  add(key: string): void
  has(key: string): boolean
  delete(key: string): void
}

export const recentSet = (max: number, forMs: number, now: () => number): RecentSet => {
  const times = new Map<string, number>()
  return {
    add: (key) => {
      times.delete(key)
      times.set(key, now())
      const [oldest] = times.keys()
      if (times.size > max && oldest !== undefined) times.delete(oldest)
    },
    has: (key) => now() - (times.get(key) ?? Number.NEGATIVE_INFINITY) < forMs,
    delete: (key) => {
      times.delete(key)
    },
  }
}
