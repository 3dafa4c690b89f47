import { type BlobStore, type Lease, readContent } from '@bramble/blobs'
import {
  type BlobHash,
  BrambleError,
  canonicalJson,
  type Json,
  type SnapshotManifest,
  snapshotManifestSchema,
} from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'

/** A content of the largest size has a descriptor of some megabytes; a memory image has a few files. */
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024

/** Rejects with `blob_not_found`, `import_refused` for what is no manifest, and the errors of stores. */
export const readManifest = async (
  store: BlobStore,
  hash: BlobHash,
  options: Abortable = {},
): Promise<SnapshotManifest> => {
  const stream = await store.get(hash, options)
  const refused = (detail: string, cause?: unknown): BrambleError =>
    new BrambleError('import_refused', { detail: `the blob ${hash} is not a snapshot: ${detail}`, cause })
  if (stream.info.sizeBytes > MAX_MANIFEST_BYTES) {
    await stream[Symbol.asyncIterator]().return?.()
    throw refused('it is too large')
  }
  const pieces: Uint8Array[] = []
  for await (const piece of stream) pieces.push(piece)
  let json: unknown
  try {
    json = JSON.parse(Buffer.concat(pieces).toString())
  } catch (cause) {
    throw refused('it is not JSON', cause)
  }
  const parsed = snapshotManifestSchema.safeParse(json)
  if (!parsed.success) throw refused(parsed.error.issues[0]?.message ?? 'it has another form', parsed.error)
  return parsed.data
}

/** Everything that the manifest names must be in the store before. */
export const storeManifest = async (
  store: BlobStore,
  lease: Lease,
  manifest: SnapshotManifest,
  { signal }: Abortable = {},
): Promise<{ hash: BlobHash; sizeBytes: number; storedBytes: number }> => {
  const bytes = Buffer.from(canonicalJson(snapshotManifestSchema.parse(manifest) as unknown as Json))
  return await store.put(bytes, { lease, sizeBytes: bytes.length, temperature: 'cold', signal })
}

/** The bytes of a file of a memory image. */
export const readMemoryFile = (
  store: BlobStore,
  manifest: SnapshotManifest,
  name: string,
  options: Abortable = {},
): AsyncIterable<Uint8Array> => {
  const files = manifest.memory?.files ?? {}
  const content = Object.hasOwn(files, name) ? files[name] : undefined
  if (!content) throw new BrambleError('file_not_found', { detail: `the snapshot has no memory file ${name}` })
  return readContent(store, content, options)
}
