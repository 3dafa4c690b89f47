import { createHash, randomUUID } from 'node:crypto'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type BlobStore, fsStore, type Lease } from '@bramble/blobs'
import {
  ARCHIVE_VERSION,
  archiveEndSchema,
  archiveHeaderSchema,
  type BlobHash,
  BrambleError,
  canonicalJson,
  type Json,
  LIMITS,
  MANIFEST_VERSION,
  type SnapshotManifest,
  snapshotManifestSchema,
} from '@bramble/protocol'
import { storeManifest } from '../content/manifest.ts'
import { blobName, END_NAME, HEADER_NAME, MANIFEST_NAME } from './archive-format.ts'
import { makeTreeCheck } from './check-tree.ts'
import { decompressed } from './decompressed.ts'
import { snapshotBlobs } from './snapshot-blobs.ts'
import { readTar, refused, type TarReader } from './tar.ts'
import { makeContentCheck } from './verify-content.ts'

export interface ImportSnapshotOptions {
  readonly store: BlobStore
  /** What `exportSnapshot` gave, from anybody. It is closed however this ends. */
  readonly source: AsyncIterable<Uint8Array>
  /** Of this node's imports alone. Each makes a folder of its own there, and removes it. */
  readonly stagingDirectory: string
  /** Holds what was taken in, until something else refers to the manifest. */
  readonly lease: Lease
  /** Of its blobs together, and again of its files and memory with their holes. Default `maxImportBytes`. */
  readonly maxBytes?: number | undefined
  readonly signal?: AbortSignal | undefined
}

export interface ImportedSnapshot {
  readonly hash: BlobHash
  readonly manifest: SnapshotManifest
  readonly blobs: number
  readonly sizeBytes: number
  /** What it added to the store. */
  readonly newStoredBytes: number
}

const maxHeaderBytes = 4096
const maxManifestBytes = 16 * 1024 * 1024
const copiesAtOnce = 4

/**
 * Takes in an exported snapshot. All of it is verified in a staging folder: every blob by its name, every file by its bytes, the
 * tree line by line, and that there is nothing more and nothing less. Only then are its blobs put into the store, under the
 * lease, its manifest last.
 *
 * A memory image comes with it as bytes: nobody vouches for it, and it is not run unless the caller says so.
 *
 * Rejects with `import_refused` and what is wrong; with the signal's reason; with the source's own error, and those of stores.
 * However it ends, killed apart, the staging folder is gone.
 */
export const importSnapshot = async (options: ImportSnapshotOptions): Promise<ImportedSnapshot> => {
  const { store, stagingDirectory, lease, signal } = options
  const folder = join(stagingDirectory, randomUUID())
  await mkdir(folder, { recursive: true, mode: 0o700 })
  try {
    const staging = await fsStore({ directory: folder, durable: false })
    try {
      const { manifest, ...received } = await receive(staging, options)
      const newStoredBytes = await copyBlobs(staging, manifest, options)
      const isThere = (await store.stat(received.hash, { signal })) !== undefined
      const { hash, storedBytes } = await storeManifest(store, lease, manifest, { signal })
      return { ...received, hash, manifest, newStoredBytes: newStoredBytes + (isThere ? 0 : storedBytes) }
    } finally {
      await staging.close()
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Removes what imports left that were killed. For the start of a node, before any import of its own. */
export const clearImports = async (stagingDirectory: string): Promise<void> => {
  const names = await readdir(stagingDirectory).catch((thrown: NodeJS.ErrnoException) => {
    if (thrown.code === 'ENOENT') return []
    throw thrown
  })
  for (const name of names) await rm(join(stagingDirectory, name), { recursive: true, force: true })
}

interface Received {
  readonly hash: BlobHash
  readonly manifest: SnapshotManifest
  readonly blobs: number
  readonly sizeBytes: number
}

const receive = async (staging: BlobStore, options: ImportSnapshotOptions): Promise<Received> => {
  const { source, signal, maxBytes = LIMITS.maxImportBytes.value } = options
  const tar = readTar(decompressed(source, signal))
  try {
    const { manifest, hash } = await receiveManifest(tar)
    const totals = { blobs: 0, sizeBytes: 0 }
    const files = { entries: 0, sizeBytes: 0 }
    const checkEntry = makeTreeCheck()
    const walk = {
      content: makeContentCheck(staging, maxBytes, signal),
      entry: (...line: Parameters<typeof checkEntry>): void => {
        const [entry] = line
        checkEntry(...line)
        files.entries++
        if (entry.type === 'file') files.sizeBytes += entry.content.sizeBytes
      },
    }
    for await (const { hash: blob, sizeBytes } of snapshotBlobs(staging, manifest, walk, { signal })) {
      totals.blobs++
      totals.sizeBytes += sizeBytes
      if (totals.sizeBytes > maxBytes) throw refused(`it has more than ${maxBytes} bytes`)
      await expectMember(tar, blobName(blob), sizeBytes)
      await putVerified(staging, tar, { hash: blob, sizeBytes, signal })
    }
    const { entries, sizeBytes } = manifest.filesystem
    if (entries !== files.entries || sizeBytes !== files.sizeBytes)
      throw refused('the manifest says other numbers of files and bytes than the tree has')
    const end = await jsonMember(tar, END_NAME, archiveEndSchema)
    if (end.blobs !== totals.blobs || end.sizeBytes !== totals.sizeBytes) throw refused('its end tells of other blobs')
    await tar.end()
    return { hash, manifest, ...totals }
  } finally {
    await tar.close()
  }
}

interface ExpectedBlob {
  readonly hash: BlobHash
  readonly sizeBytes: number
  readonly signal: AbortSignal | undefined
}

const putVerified = async (
  staging: BlobStore,
  tar: TarReader,
  { hash, sizeBytes, signal }: ExpectedBlob,
): Promise<void> => {
  try {
    await staging.put(tar.read(), { expect: hash, sizeBytes, signal })
  } catch (thrown) {
    if (thrown instanceof BrambleError && thrown.code === 'blob_corrupt')
      throw refused(`a blob is not what it is named: ${thrown.detail}`, thrown)
    throw thrown
  }
}

const expectMember = async (tar: TarReader, name: string, sizeBytes: number): Promise<void> => {
  const member = await tar.next()
  if (member.name !== name) throw refused(`${member.name} comes where ${name} is expected`)
  if (member.sizeBytes !== sizeBytes)
    throw refused(`${name} has ${member.sizeBytes} bytes, and not the ${sizeBytes} told of it`)
}

const smallMember = async (tar: TarReader, name: string, maxBytes: number): Promise<Buffer> => {
  const member = await tar.next()
  if (member.name !== name) throw refused(`${JSON.stringify(member.name)} comes where ${name} is expected`)
  if (member.sizeBytes > maxBytes) throw refused(`${name} has more than ${maxBytes} bytes`)
  const parts: Uint8Array[] = []
  for await (const part of tar.read()) parts.push(part)
  return Buffer.concat(parts)
}

const jsonOf = (bytes: Buffer, name: string): unknown => {
  try {
    return JSON.parse(bytes.toString())
  } catch (cause) {
    throw refused(`${name} is not JSON`, cause)
  }
}

/** The part of a schema that is used here. */
interface Schema<T> {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: ParseError }
}
interface ParseError {
  readonly issues: readonly { readonly path: readonly PropertyKey[]; readonly message: string }[]
}

/** What is written in another way than this program writes it is refused: two files that differ are two snapshots. */
const parseCanonical = <T>(schema: Schema<T>, bytes: Buffer, name: string): T => {
  const parsed = schema.safeParse(jsonOf(bytes, name))
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw refused(`${name}: ${issue?.path.map(String).join('.')}: ${issue?.message}`, parsed.error)
  }
  if (!Buffer.from(canonicalJson(parsed.data as Json)).equals(bytes)) throw refused(`${name} is not canonical JSON`)
  return parsed.data
}

const jsonMember = async <T>(tar: TarReader, name: string, schema: Schema<T>): Promise<T> =>
  parseCanonical(schema, await smallMember(tar, name, maxHeaderBytes), name)

const checkVersion = (value: unknown, name: string, version: number): void => {
  const found = typeof value === 'object' && value !== null && 'version' in value ? value.version : undefined
  if (found !== version)
    throw refused(`${name} has the version ${JSON.stringify(found)?.slice(0, 100)}; this node reads version ${version}`)
}

const receiveManifest = async (tar: TarReader): Promise<Pick<Received, 'hash' | 'manifest'>> => {
  const head = await smallMember(tar, HEADER_NAME, maxHeaderBytes)
  checkVersion(jsonOf(head, HEADER_NAME), HEADER_NAME, ARCHIVE_VERSION)
  const header = parseCanonical(archiveHeaderSchema, head, HEADER_NAME)
  const bytes = await smallMember(tar, MANIFEST_NAME, maxManifestBytes)
  if (createHash('sha256').update(bytes).digest('hex') !== header.manifest)
    throw refused('the manifest does not have the hash that the file says')
  checkVersion(jsonOf(bytes, MANIFEST_NAME), MANIFEST_NAME, MANIFEST_VERSION)
  const manifest = parseCanonical(snapshotManifestSchema, bytes, MANIFEST_NAME)
  const { memory } = manifest
  const memoryBytes = Object.values(memory?.files ?? {}).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  if (memory !== undefined && memory.sizeBytes !== memoryBytes)
    throw refused('the manifest says another size of the memory than its files have')
  return { hash: header.manifest, manifest }
}

/** Some at once, each held by the lease from before the next collection may look at it. */
const copyBlobs = async (
  staging: BlobStore,
  manifest: SnapshotManifest,
  { store, lease, signal }: ImportSnapshotOptions,
): Promise<number> => {
  let newStoredBytes = 0
  const copy = async ({ hash, sizeBytes }: { hash: BlobHash; sizeBytes: number }): Promise<void> => {
    if ((await store.stat(hash, { signal })) !== undefined && (await held(lease, hash))) return
    const source = await staging.get(hash, { signal })
    const { storedBytes } = await store.put(source, { expect: hash, sizeBytes, lease, temperature: 'cold', signal })
    newStoredBytes += storedBytes
  }
  const blobs = snapshotBlobs(staging, manifest, {}, { signal })
  const worker = async (): Promise<void> => {
    for (let next = await blobs.next(); !next.done; next = await blobs.next()) {
      signal?.throwIfAborted()
      await copy(next.value)
    }
  }
  const workers = await Promise.allSettled(Array.from({ length: copiesAtOnce }, worker))
  await blobs.return()
  for (const ended of workers) if (ended.status === 'rejected') throw ended.reason
  return newStoredBytes
}

/** False: it went between two looks, and is to be put again. */
const held = async (lease: Lease, hash: BlobHash): Promise<boolean> => {
  try {
    await lease.hold([hash])
    return true
  } catch (thrown) {
    if (thrown instanceof BrambleError && thrown.code === 'blob_not_found') return false
    throw thrown
  }
}
