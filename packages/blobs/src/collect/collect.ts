import type { BlobHash } from '@bramble/protocol'
import type { BlobStore } from '../blob-store.ts'
import { abortable } from '../pieces.ts'
import { hashSet } from './hash-set.ts'

const defaultGraceMs = 3_600_000

export interface CollectOptions {
  /** What was put, put again or held within this time stays, whoever needs it. Default: 1 h. */
  readonly graceMs?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Counts what would go, and removes nothing. */
  readonly dryRun?: boolean | undefined
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

export interface Collection {
  readonly keptBlobs: number
  readonly removedBlobs: number
  readonly removedStoredBytes: number
}

/**
 * Removes the blobs that nothing reaches: neither a root, nor a lease, nor somebody who put or held one within `graceMs`.
 * `roots` gives every blob that is to stay, and what it reads may change meanwhile: what is written now is under a lease, or
 * young. Ended at any point, by its signal or by the end of the process, it has removed only what it was to remove.
 */
export const collect = async (
  store: BlobStore,
  roots: AsyncIterable<BlobHash> | Iterable<BlobHash>,
  options: CollectOptions = {},
): Promise<Collection> => {
  const { graceMs = defaultGraceMs, signal, dryRun = false, now = Date.now } = options
  signal?.throwIfAborted()
  const idleSinceMs = now() - graceMs
  const live = hashSet()
  // First the leases, then the roots: what a lease held now may be reached by a root, made and let go, that the marking has
  // passed by already. What is held from here on was touched, and is young.
  for await (const hash of abortable(store.leases.held(), signal)) live.add(hash)
  for await (const hash of abortable(roots, signal)) live.add(hash)

  let keptBlobs = 0
  let removedBlobs = 0
  let removedStoredBytes = 0
  for await (const { hash, storedBytes, touchedMs } of store.list({ signal })) {
    signal?.throwIfAborted()
    const goes =
      !live.has(hash) && touchedMs < idleSinceMs && (dryRun || (await store.remove(hash, { idleSinceMs, signal })))
    if (goes) {
      removedBlobs++
      removedStoredBytes += storedBytes
    } else keptBlobs++
  }
  return { keptBlobs, removedBlobs, removedStoredBytes }
}
