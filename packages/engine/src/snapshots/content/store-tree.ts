import { type BlobStore, contentWriter, type Lease, type Temperature } from '@bramble/blobs'
import { type BlobHash, BrambleError, type Content, canonicalJson, type Json, LIMITS } from '@bramble/protocol'
import type { Abortable, LayerEntry } from '@bramble/runtime'
import { type FileEntry, type ReadFile, readAhead } from './read-ahead.ts'
import { toTreeEntry } from './tree-entry.ts'

/** Entries whose files are stored before their lines are written: what is packed has its place when its pack is full. */
const GROUP_ENTRIES = 20_000
const LINES_BYTES = 256 * 1024

export interface StoreTreeOptions extends Abortable {
  readonly store: BlobStore
  readonly lease: Lease
  /** In the order of their paths' bytes. An opaque directory is stored as any other: see `explicitDeletions`. */
  readonly entries: AsyncIterable<LayerEntry>
  readonly read: ReadFile
  /** What an earlier tree has at the path of a file. Asked for one file after another, in their order. */
  readonly known?: ((file: FileEntry) => Promise<KnownContent | undefined>) | undefined
  /** Of all files together, holes included. */
  readonly maxFilesBytes?: number | undefined
  readonly temperature?: Temperature | undefined
}

export interface KnownContent {
  readonly content: Content
  /** It is the file's, which is not read. Otherwise it may be. */
  readonly same: boolean
}

export interface StoredTree {
  readonly tree: Content
  readonly entries: number
  /** Of all files. */
  readonly sizeBytes: number
  readonly stats: TreeStats
}

export interface TreeStats {
  readonly files: number
  /** Files that were not read, since their content was known. */
  readonly knownFiles: number
  readonly newBlobs: number
  /** What was added to the store. */
  readonly newStoredBytes: number
}

/**
 * Stores a tree of files: their contents, and its lines. What resolves is durable, and held by the lease; without the lease
 * nothing refers to it. Rejects with `unsupported` for what no tree holds, `blob_not_found` where `known` gave what is not
 * there any more.
 */
export const storeTree = async (options: StoreTreeOptions): Promise<StoredTree> => {
  const { store, lease, signal, temperature = 'cold' } = options
  const totals = { entries: 0, sizeBytes: 0, files: 0, knownFiles: 0, newBlobs: 0, newStoredBytes: 0 }
  const maxFilesBytes = options.maxFilesBytes ?? Number.MAX_SAFE_INTEGER
  const count = (entry: LayerEntry): void => {
    totals.entries++
    if (totals.entries > LIMITS.maxSnapshotEntries.value)
      throw unsupported(`there are more than ${LIMITS.maxSnapshotEntries.value} files`)
    if (entry.type !== 'file') return
    totals.files++
    totals.sizeBytes += entry.sizeBytes
    if (entry.sizeBytes > LIMITS.maxBlobBytes.value || totals.sizeBytes > maxFilesBytes)
      throw unsupported(`its files have more than ${Math.min(LIMITS.maxBlobBytes.value, maxFilesBytes)} bytes`)
  }
  async function* lines(): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const group of grouped(options.entries)) {
      for (const entry of group) count(entry)
      const contents = await storeFiles(options, group, totals)
      yield* linesOf(group, contents)
    }
  }
  const writer = contentWriter({ store, lease, temperature })
  const tree = await writer.add(lines(), { signal })
  addTotals(totals, await writer.finish())
  const { entries, sizeBytes, ...stats } = totals
  return { tree: tree(), entries, sizeBytes, stats }
}

const unsupported = (detail: string): BrambleError =>
  new BrambleError('unsupported', { detail: `the files cannot be kept: ${detail}` })

const addTotals = (
  totals: { newBlobs: number; newStoredBytes: number },
  added: { readonly newBlobs: number; readonly newStoredBytes: number },
): void => {
  totals.newBlobs += added.newBlobs
  totals.newStoredBytes += added.newStoredBytes
}

async function* grouped(entries: AsyncIterable<LayerEntry>): AsyncGenerator<LayerEntry[], void, undefined> {
  let group: LayerEntry[] = []
  for await (const entry of entries) {
    if (group.push(entry) < GROUP_ENTRIES) continue
    yield group
    group = []
  }
  if (group.length > 0) yield group
}

/** The contents of the group's files, by path, held by the lease. */
const storeFiles = async (
  { store, lease, read, known, signal, temperature = 'cold' }: StoreTreeOptions,
  group: readonly LayerEntry[],
  totals: { knownFiles: number; newBlobs: number; newStoredBytes: number },
): Promise<Map<string, Content>> => {
  const contents = new Map<string, Content>()
  const unknown: FileEntry[] = []
  const held = new Set<BlobHash>()
  const earlier = new Map<BlobHash, Content>()
  for (const entry of group) {
    if (entry.type !== 'file') continue
    const before = await known?.(entry)
    if (!before?.same) {
      unknown.push(entry)
      if (before) earlier.set(before.content.sha256, before.content)
      continue
    }
    totals.knownFiles++
    contents.set(entry.path, before.content)
    for (const { blob } of before.content.pieces) held.add(blob)
  }
  if (held.size > 0) await lease.hold(held)
  const writer = contentWriter({ store, lease, temperature, known: (sha256) => earlier.get(sha256) })
  const added: (readonly [FileEntry, () => Content])[] = []
  await readAhead(unknown, read, async (file, bytes) => {
    signal?.throwIfAborted()
    added.push([file, await writer.add(bytes, { signal })])
  })
  addTotals(totals, await writer.finish())
  for (const [file, contentOf] of added) {
    const content = contentOf()
    if (content.sizeBytes !== file.sizeBytes)
      throw new BrambleError('store_unavailable', { detail: 'a file changed while it was stored' })
    contents.set(file.path, content)
  }
  return contents
}

function* linesOf(group: readonly LayerEntry[], contents: ReadonlyMap<string, Content>): Generator<Uint8Array> {
  let text = ''
  for (const entry of group) {
    text += `${canonicalJson(toTreeEntry(entry, contents.get(entry.path)) as unknown as Json)}\n`
    if (text.length < LINES_BYTES) continue
    yield Buffer.from(text)
    text = ''
  }
  if (text !== '') yield Buffer.from(text)
}
