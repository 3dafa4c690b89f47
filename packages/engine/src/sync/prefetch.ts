import type { BlobStore } from '@bramble/blobs'
import { type BlobHash, toBrambleError } from '@bramble/protocol'
import { type Announcement, mostUsed } from './popularity.ts'

export interface Prefetching {
  readonly blobs: BlobStore
  readonly signal: AbortSignal
  /** Whether the node has time now. */
  readonly isIdle: () => boolean
  /** Brings an image here; how many bytes its files have. Undefined: it is here, or nowhere. */
  readonly obtainImage: (digest: string) => Promise<number | undefined>
  /** What may still be fetched ahead; it goes down. */
  readonly budget: { leftBytes: number }
}

/** Of what is popular elsewhere and did not come: it is tried again with the next announcement. */
const FAILURES_MAX = 3

/**
 * Brings here what the nodes use most: images, results, blobs. It stops where the node gets work, the budget is used up or the
 * shared tier does not answer; what is here already costs a look. Gives how much came.
 */
export const prefetch = async (prefetching: Prefetching, announcements: readonly Announcement[]): Promise<number> => {
  const { blobs, signal, isIdle, obtainImage, budget } = prefetching
  const { lower } = blobs
  if (!lower) return 0
  let cameBytes = 0
  let failures = 0
  const mayGo = (): boolean =>
    !signal.aborted && isIdle() && budget.leftBytes > 0 && failures < FAILURES_MAX && lower.state.available
  const spend = (bytes: number): void => {
    cameBytes += bytes
    budget.leftBytes -= bytes
  }
  const each = async (keys: readonly string[], bring: (key: string) => Promise<number>): Promise<void> => {
    for (const key of keys) {
      if (!mayGo()) return
      try {
        spend(await bring(key))
      } catch (error) {
        // It was removed, or is not there yet: another node's affair.
        if (!['blob_not_found', 'image_not_found'].includes(toBrambleError(error).code)) failures++
      }
    }
  }
  await each(mostUsed(announcements, 'images'), async (digest) => (await obtainImage(digest)) ?? 0)
  await each(mostUsed(announcements, 'names'), async (name) => {
    if (await blobs.names.get(name, { reach: 'local', signal })) return 0
    return (await blobs.names.get(name, { signal }))?.length ?? 0
  })
  await each(mostUsed(announcements, 'blobs'), async (hash) => {
    const info = await lower.prefetch(hash as BlobHash)
    return info?.storedBytes ?? 0
  })
  return cameBytes
}
