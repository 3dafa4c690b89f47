import { type FileHandle, open } from 'node:fs/promises'
import type { BlobHash } from '@bramble/protocol'
import type { BlobInfo, BlobStream, GetOptions } from '../blob-store.ts'
import { type OpenedBlob, openStored, type StoredBlob, tailBytes } from '../codec/decode.ts'
import { type ByteRange, notFound, rangeOf, streamOf, verified } from '../pieces.ts'
import { type FsContext, isHash, notThere, pathOf, setAside } from './fs-blobs.ts'
import { onDisk } from './fs-error.ts'

/** Read at once: four blocks that did not compress. */
const readBytes = 1024 * 1024

interface OpenedFile {
  readonly info: BlobInfo
  readonly blob: OpenedBlob
  /** This process wrote it, and nobody changed it since. */
  readonly isFresh: boolean
  readonly damaged: (what: string) => Promise<Error>
}

export const statBlob = async (context: FsContext, hash: BlobHash): Promise<BlobInfo | undefined> =>
  (await context.opening(() => glance(context, hash)))?.info

export const getBlob = async (
  context: FsContext,
  hash: BlobHash,
  { range: asked, signal }: GetOptions,
): Promise<BlobStream> => {
  signal?.throwIfAborted()
  const file = await context.opening(() => glance(context, hash))
  if (!file) throw notFound(hash, 'fs')
  const range = rangeOf(asked, file.info.sizeBytes)
  // A small one has been read by now. No file stays open for a stream that nobody may ever read.
  const pieces =
    file.info.storedBytes <= tailBytes ? () => contentOf(file, range) : () => readAgain(context, hash, range)
  return streamOf(file.info, pieces, signal)
}

/** What the end of the file tells: all of the blob, where it is small. */
export const glance = async (context: FsContext, hash: BlobHash): Promise<OpenedFile | undefined> => {
  if (!isHash(hash)) return undefined
  const handle = await onDisk(() => open(pathOf(context.paths, hash)).catch(notThere))
  if (!handle) return undefined
  try {
    return await openFile(context, hash, handle)
  } finally {
    await handle.close()
  }
}

async function* readAgain(
  context: FsContext,
  hash: BlobHash,
  range: ByteRange,
): AsyncGenerator<Uint8Array, void, undefined> {
  const handle = await onDisk(() => open(pathOf(context.paths, hash)).catch(notThere))
  if (!handle) throw notFound(hash, 'fs')
  try {
    yield* contentOf(await openFile(context, hash, handle), range)
  } finally {
    await handle.close()
  }
}

const openFile = async (context: FsContext, hash: BlobHash, handle: FileHandle): Promise<OpenedFile> => {
  const stats = await onDisk(() => handle.stat({ bigint: true }))
  const storedBytes = Number(stats.size)
  const damaged = (what: string): Promise<Error> => setAside(context, hash, stats.ino, what)
  const blob = await openStored(storedFile(handle, storedBytes), damaged)
  const { codec, sizeBytes } = blob
  const isFresh = context.fresh.has(hash, stats)
  await context.room.wasRead(handle, stats)
  return { info: { hash, sizeBytes, storedBytes, codec }, blob, isFresh, damaged }
}

/** Verified by hash, or where it is only a part, by the checksums of its blocks. */
const contentOf = (
  { info, blob, isFresh, damaged }: OpenedFile,
  range: ByteRange,
): AsyncGenerator<Uint8Array, void, undefined> => {
  const pieces = blob.read(range)
  return range.whole && !isFresh ? verified(pieces, info, damaged) : pieces
}

const storedFile = (handle: FileHandle, storedBytes: number): StoredBlob => ({
  storedBytes,
  read: async function* (start, end) {
    let next = readAt(handle, start, end)
    try {
      for (let at = start; at < end; ) {
        const bytes = await next
        if (bytes.length === 0) return
        at += bytes.length
        // Read while the reader is busy with what it has.
        next = readAt(handle, at, end)
        yield bytes
      }
    } finally {
      await next.catch(() => undefined)
    }
  },
})

const readAt = async (handle: FileHandle, start: number, end: number): Promise<Buffer> => {
  const length = Math.min(readBytes, end - start)
  if (length <= 0) return Buffer.alloc(0)
  const buffer = Buffer.allocUnsafeSlow(length)
  const { bytesRead } = await onDisk(() => handle.read(buffer, 0, length, start))
  return buffer.subarray(0, bytesRead)
}
