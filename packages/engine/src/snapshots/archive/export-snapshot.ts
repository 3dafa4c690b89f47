import { createHash } from 'node:crypto'
import type { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { constants, createZstdCompress } from 'node:zlib'
import type { BlobStore } from '@bramble/blobs'
import {
  ARCHIVE_VERSION,
  type BlobHash,
  BrambleError,
  canonicalJson,
  type Json,
  type SnapshotManifest,
} from '@bramble/protocol'
import { readManifest } from '../content/manifest.ts'
import { blobName, END_NAME, HEADER_NAME, MANIFEST_NAME } from './archive-format.ts'
import { snapshotBlobs } from './snapshot-blobs.ts'
import { tarEnd, tarHeader, tarPadding } from './tar.ts'

export interface ExportSnapshotOptions {
  readonly store: BlobStore
  readonly hash: BlobHash
  /** False: without the memory that it may have, as a snapshot of its own, with another id. Default true. */
  readonly memory?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * A snapshot as one file: a tar archive, compressed by zstd. It is read from the store as fast as it is taken, some pieces
 * ahead. Rejects while nothing was given yet where there is no such snapshot; what is found missing or damaged later ends the
 * stream with that error, and what was given until then is refused by an import.
 */
export const exportSnapshot = async (options: ExportSnapshotOptions): Promise<AsyncIterable<Uint8Array>> => {
  const { store, hash, memory = true, signal } = options
  const manifest = await readManifest(store, hash, { signal })
  return compressed(archiveOf(store, memory ? manifest : withoutMemory(manifest), signal), signal)
}

const withoutMemory = ({ memory: _, ...manifest }: SnapshotManifest): SnapshotManifest => manifest

async function* compressed(
  source: AsyncGenerator<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const zstd = createZstdCompress({ params: { [constants.ZSTD_c_checksumFlag]: 1 } })
  const running = pipeline(settledPieces(source, zstd), zstd, { signal })
  // Its error comes by the stream, too, which is where it is looked for.
  running.catch(() => undefined)
  try {
    yield* zstd
    await running
  } catch (thrown) {
    signal?.throwIfAborted()
    throw thrown
  } finally {
    zstd.destroy()
    await running.catch(() => undefined)
  }
}

/**
 * A compressor that is ended while it has a piece in its hands ends its frame twice, and the file has an empty one at its end: it
 * would depend on the moment which bytes the file has.
 */
async function* settledPieces(
  source: AsyncGenerator<Uint8Array>,
  zstd: Writable,
): AsyncGenerator<Uint8Array, void, undefined> {
  yield* source
  await new Promise<void>((resolve) => zstd.write(Buffer.alloc(0), () => resolve()))
}

async function* archiveOf(
  store: BlobStore,
  manifest: SnapshotManifest,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const bytes = Buffer.from(canonicalJson(manifest as unknown as Json))
  const hash = createHash('sha256').update(bytes).digest('hex')
  yield jsonMember(HEADER_NAME, { format: 'bramble.archive', version: ARCHIVE_VERSION, manifest: hash })
  yield member(MANIFEST_NAME, bytes)
  const end = { blobs: 0, sizeBytes: 0 }
  for await (const { hash: blob, sizeBytes } of snapshotBlobs(store, manifest, {}, { signal })) {
    const stream = await store.get(blob, { signal })
    if (stream.info.sizeBytes !== sizeBytes) {
      await stream[Symbol.asyncIterator]().return?.()
      throw new BrambleError('blob_corrupt', { detail: `${blob}: it has other than the ${sizeBytes} bytes told of it` })
    }
    yield tarHeader(blobName(blob), sizeBytes)
    yield* stream
    yield tarPadding(sizeBytes)
    end.blobs++
    end.sizeBytes += sizeBytes
  }
  yield jsonMember(END_NAME, end)
  yield tarEnd()
}

const member = (name: string, bytes: Buffer): Buffer =>
  Buffer.concat([tarHeader(name, bytes.length), bytes, tarPadding(bytes.length)])

const jsonMember = (name: string, value: Json): Buffer => member(name, Buffer.from(canonicalJson(value)))
