import { type BlobStore, contentReader } from '@bramble/blobs'
import { BrambleError, type Content, type SnapshotManifest } from '@bramble/protocol'
import type { Abortable, BytePath, LayerEntry, LocalImage, SealedMemory, SealSource, SealStore } from '@bramble/runtime'
import { type ImageListing, listingOf, parentOf } from './image-listing.ts'
import { readMemoryFile } from './manifest.ts'
import { readTreeLines } from './read-tree.ts'
import { toLayerEntry } from './tree-entry.ts'

const MIB = 1024 * 1024
/** What a directory is where neither the tree nor the image has it. */
const PLAIN_DIRECTORY = { mode: 0o755, uid: 0, gid: 0, modifiedNs: 0n }

export interface MaterializeOptions extends Abortable {
  readonly store: BlobStore
  readonly seals: SealStore
  /** Of the seal that is made. */
  readonly name: string
  readonly manifest: SnapshotManifest
  readonly image: Pick<LocalImage, 'rootfs'>
  /** Default: the disk of the sandbox that it was taken of. */
  readonly diskBytes?: number | undefined
  /** Whether its memory, where it has one, is written too: it runs with the rights of the host. */
  readonly trustMemory: boolean
}

/**
 * Makes a seal of a snapshot. All of its tree is checked before anything is made. Rejects with `import_refused` for a tree
 * that is not one, `snapshot_incompatible` where its files do not fit, the errors of stores and of `SealStore.write`.
 */
export const materialize = async (options: MaterializeOptions): Promise<void> => {
  const { store, seals, name, manifest, image, signal } = options
  const diskBytes = options.diskBytes ?? manifest.config.diskMb * MIB
  const missing = await checkTree(options, diskBytes)
  const files = layerSource(store, manifest.filesystem.tree, {
    signal,
    missing: await asEntries(missing, image.rootfs),
  })
  const memory = options.trustMemory ? memoryOf(store, manifest, options) : undefined
  await seals.write(name, { ...files, diskBytes, ...(memory && { memory }) }, { signal })
}

/** Directories that entries are in, and that the tree does not have: an overlay needs each. */
const checkTree = async ({ store, manifest, signal }: MaterializeOptions, diskBytes: number): Promise<BytePath[]> => {
  const { tree, entries, sizeBytes } = manifest.filesystem
  const found = { entries: 0, sizeBytes: 0 }
  const directories = new Set<BytePath>([''])
  const missing: BytePath[] = []
  let neededBytes = 0
  for await (const { entry, path } of readTreeLines(store, tree, { signal })) {
    found.entries++
    if (entry.type === 'directory') directories.add(path)
    for (let at = parentOf(path); !directories.has(at); at = parentOf(at)) {
      directories.add(at)
      missing.push(at)
    }
    if (entry.type !== 'file') continue
    found.sizeBytes += entry.content.sizeBytes
    neededBytes += distinctBytes(entry.content)
    if (neededBytes > diskBytes)
      throw new BrambleError('snapshot_incompatible', {
        detail: `its files take more than the ${diskBytes} bytes of the sandbox's disk`,
      })
  }
  if (found.entries !== entries || found.sizeBytes !== sizeBytes)
    throw new BrambleError('import_refused', { detail: 'the manifest of the snapshot says other than its tree' })
  return missing
}

/** What a file takes at least: holes are one piece over and over. */
const distinctBytes = ({ pieces }: Content): number => {
  if (pieces.length < 2) return pieces[0]?.length ?? pieces[0]?.sizeBytes ?? 0
  return [...new Map(pieces.map((piece) => [piece.blob, piece.length ?? piece.sizeBytes])).values()].reduce(
    (sum, bytes) => sum + bytes,
    0,
  )
}

const asEntries = async (missing: readonly BytePath[], rootfs: string): Promise<LayerEntry[]> => {
  const image: ImageListing = listingOf(rootfs)
  const entries: LayerEntry[] = []
  for (const path of [...missing].sort((left, right) => (left < right ? -1 : 1)))
    entries.push({ type: 'directory', path, ...((await image.directory(path)) ?? PLAIN_DIRECTORY), opaque: false })
  return entries
}

/** A stored tree as what a layer is written from. `missing`: sorted directories that it does not have. */
export const layerSource = (
  store: BlobStore,
  tree: Content,
  { signal, missing = [] }: Abortable & { readonly missing?: readonly LayerEntry[] } = {},
): Pick<SealSource, 'entries' | 'read'> => {
  // Files are read in their order, some time after their entries are taken.
  const contents = new Map<BytePath, Content>()
  const reader = contentReader(store)
  async function* entries(): AsyncGenerator<LayerEntry, void, undefined> {
    let next = 0
    for await (const { entry, path } of readTreeLines(store, tree, { signal })) {
      for (let more = missing[next]; more && more.path < path; more = missing[++next]) yield more
      if (entry.type === 'file') contents.set(path, entry.content)
      yield toLayerEntry(entry, path)
    }
    yield* missing.slice(next)
  }
  return {
    entries: entries(),
    read: (path) => {
      const content = contents.get(path)
      contents.delete(path)
      if (!content) throw new BrambleError('file_not_found', { detail: 'the tree has no such file' })
      return reader.read(content, { signal })
    },
  }
}

const memoryOf = (store: BlobStore, manifest: SnapshotManifest, { signal }: Abortable): SealSource['memory'] => {
  if (!manifest.memory) return undefined
  const { requires, sizeBytes, files, processes, ports } = manifest.memory
  const info: SealedMemory = {
    requires,
    sizeBytes,
    files: Object.entries(files).map(([name, content]) => ({ name, sizeBytes: content.sizeBytes })),
    processes,
    ports,
  }
  return { info, read: (name) => readMemoryFile(store, manifest, name, { signal }) }
}
