import { type BlobStore, contentWriter, type Lease } from '@bramble/blobs'
import {
  type BlobHash,
  BrambleError,
  type Content,
  LIMITS,
  MANIFEST_VERSION,
  type SnapshotManifest,
} from '@bramble/protocol'
import type { Abortable, LocalImage, SealStore } from '@bramble/runtime'
import { explicitDeletions } from './explicit-deletions.ts'
import { listingOf } from './image-listing.ts'
import { type Ancestor, knownContents } from './known-contents.ts'
import { storeManifest } from './manifest.ts'
import { type StoredTree, storeTree, type TreeStats } from './store-tree.ts'

const MIB = 1024 * 1024

export interface StoreSealOptions extends Abortable {
  readonly store: BlobStore
  /** Holds all that is stored, until something else refers to the manifest. */
  readonly lease: Lease
  readonly seals: SealStore
  readonly seal: string
  readonly image: Pick<LocalImage, 'digest' | 'rootfs'>
  /** RFC 3339. */
  readonly takenAt: string
  /** What users call the image. */
  readonly imageName?: string | undefined
  readonly config: SnapshotManifest['config']
  readonly labels?: SnapshotManifest['labels']
  /** The snapshot that the manifest says it was taken from. */
  readonly parent?: BlobHash | undefined
  /** Whether the seal's memory, where it has one, belongs to the snapshot. Default true. */
  readonly memory?: boolean | undefined
  /** Of the seal that the sandbox continued, or of an earlier seal of this sandbox: what it has need not be stored again. */
  readonly ancestor?: Ancestor | undefined
}

export interface StoredSeal {
  readonly manifest: SnapshotManifest
  readonly hash: BlobHash
  readonly stats: TreeStats
}

/**
 * Writes a seal into the store. The manifest comes last: while it is not there, nothing refers to the rest, and collections
 * remove that when the lease is over.
 */
export const storeSeal = async (options: StoreSealOptions): Promise<StoredSeal> => {
  const { store, lease, image, imageName, takenAt, config, labels, parent, signal } = options
  const tree = await storeFiles(options)
  const memory = options.memory === false ? undefined : await storeMemory(options)
  const manifest: SnapshotManifest = {
    version: MANIFEST_VERSION,
    kind: 'bramble.snapshot',
    takenAt,
    image: { digest: image.digest, ...(imageName !== undefined && { name: imageName }) },
    config,
    ...(labels && Object.keys(labels).length > 0 && { labels }),
    ...(parent !== undefined && { parent }),
    filesystem: { tree: tree.tree, entries: tree.entries, sizeBytes: tree.sizeBytes },
    ...(memory && { memory: memory.memory }),
  }
  const { hash, storedBytes } = await storeManifest(store, lease, manifest, { signal })
  const { newBlobs, newStoredBytes } = memory?.stats ?? { newBlobs: 0, newStoredBytes: 0 }
  const stats = {
    ...tree.stats,
    newBlobs: tree.stats.newBlobs + newBlobs + 1,
    newStoredBytes: tree.stats.newStoredBytes + newStoredBytes + storedBytes,
  }
  return { manifest, hash, stats }
}

const storeFiles = async (options: StoreSealOptions): Promise<StoredTree> => {
  const { ancestor } = options
  if (!ancestor) return await storeFilesBeside(options, undefined)
  try {
    return await storeFilesBeside(options, ancestor)
  } catch (error) {
    // The ancestor, its seal or a blob of it is gone, or never was what it seemed. It only saves work.
    if (!(error instanceof BrambleError) || !GONE.has(error.code)) throw error
    options.signal?.throwIfAborted()
    return await storeFilesBeside(options, undefined)
  }
}

const GONE: ReadonlySet<string> = new Set([
  'not_found',
  'blob_not_found',
  'blob_corrupt',
  'import_refused',
  // It may be in a tier that does not answer; what is stored now does not need that one.
  'store_unavailable',
])

const storeFilesBeside = async (options: StoreSealOptions, ancestor: Ancestor | undefined): Promise<StoredTree> => {
  const { store, lease, seals, seal, image, config, signal } = options
  await using known = ancestor && knownContents(store, seals, ancestor, { signal })
  return await storeTree({
    store,
    lease,
    entries: explicitDeletions(seals.entries(seal, { signal }), listingOf(image.rootfs)),
    read: (path) => seals.read(seal, path, { signal }),
    known: known?.of,
    // A disk holds no more than its size, but for holes.
    maxFilesBytes: Math.max(LIMITS.maxBlobBytes.value, 4 * config.diskMb * MIB),
    signal,
  })
}

const storeMemory = async ({ store, lease, seals, seal, signal }: StoreSealOptions) => {
  const sealed = await seals.memory(seal)
  if (!sealed) return undefined
  const writer = contentWriter({ store, lease, temperature: 'hot' })
  const added: (readonly [string, () => Content])[] = []
  for (const { name } of sealed.files)
    added.push([name, await writer.add(seals.readMemory(seal, name, { signal }), { signal })])
  const stats = await writer.finish()
  const files = Object.fromEntries(added.map(([name, contentOf]) => [name, contentOf()]))
  const { requires, sizeBytes, processes, ports } = sealed
  return { stats, memory: { requires, sizeBytes, files, processes: [...processes], ports: [...ports] } }
}
