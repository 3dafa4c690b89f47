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
import { readJsonBlob } from '../../json-blob.ts'

/** Rejects with `blob_not_found`, `import_refused` for what is no manifest, and the errors of stores. */
export const readManifest = (store: BlobStore, hash: BlobHash, options: Abortable = {}): Promise<SnapshotManifest> =>
  readJsonBlob(store, hash, snapshotManifestSchema, options)

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
