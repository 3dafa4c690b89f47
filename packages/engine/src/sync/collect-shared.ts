import { type BlobStore, type Collection, collect } from '@bramble/blobs'
import { type BlobHash, blobHashSchema, toBrambleError } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'
import { RESULTS } from '../cache/names.ts'
import { blobsOf, parseStored } from '../cache/stored-result.ts'
import { references } from '../snapshots/content/references.ts'
import { cacheReferences, sharedCaches } from './share-caches.ts'
import { imageReferences, sharedImages } from './share-image.ts'
import { ROOT_NAMES, sharedRoots } from './share-roots.ts'

export interface CollectSharedOptions extends Abortable {
  /** What was written within this time stays, whoever needs it. Nodes need some to bring what belongs together. */
  readonly graceMs: number
  /** Counts what would go, and removes nothing. */
  readonly dryRun: boolean
}

/** Shorter than this, a node may still be bringing what it has begun. */
export const MIN_SHARED_GRACE_MS = 3_600_000

/**
 * Removes from a shared tier what no node needs: what no snapshot, image, dependency cache or result that has a name there
 * leads to, and no node told of (`roots/<node>`). For one process at a time, and only when somebody asks for it. Where
 * anything that says what others need cannot be read, it rejects, and nothing was removed.
 */
export const collectShared = (shared: BlobStore, options: CollectSharedOptions): Promise<Collection> =>
  collect(shared, roots(shared, options), { ...options, graceMs: Math.max(options.graceMs, MIN_SHARED_GRACE_MS) })

async function* roots(shared: BlobStore, { signal }: Abortable): AsyncGenerator<BlobHash, void, undefined> {
  const seen = new Set<string>()
  for await (const name of shared.names.list('snapshots/', { signal })) {
    const hash = blobHashSchema.safeParse(name.slice(name.lastIndexOf('/') + 1))
    if (!hash.success || seen.has(hash.data)) continue
    seen.add(hash.data)
    yield* unlessMissing(references(shared, hash.data, { signal }))
  }
  for await (const pointer of sharedImages(shared, { signal }))
    yield* unlessMissing(imageReferences(shared, pointer, { signal }))
  for await (const { manifest } of sharedCaches({ blobs: shared, node: '' }, { signal }))
    yield* unlessMissing(cacheReferences(shared, manifest, { signal }))
  for await (const name of shared.names.list(RESULTS, { signal })) {
    const value = await shared.names.get(name, { signal })
    const stored = value && parseStored(value)
    if (!stored) continue
    const { texts, outputs } = blobsOf(stored)
    yield* texts
    for (const { hash } of outputs) yield hash
  }
  for await (const name of shared.names.list(ROOT_NAMES, { signal })) yield* sharedRoots(shared, name, { signal })
}

/** What is not whole there cannot be used from there, and is no reason to keep anything. */
async function* unlessMissing(hashes: AsyncIterable<BlobHash>): AsyncGenerator<BlobHash, void, undefined> {
  try {
    yield* hashes
  } catch (error) {
    if (toBrambleError(error).code !== 'blob_not_found') throw error
  }
}
