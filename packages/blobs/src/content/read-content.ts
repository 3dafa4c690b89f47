import { BrambleError, type Content } from '@bramble/protocol'
import type { Abortable, BlobStore } from '../blob-store.ts'
import type { ReadContent } from '../content.ts'
import { abortable, verified } from '../pieces.ts'

type Piece = Content['pieces'][number]
type ReadPiece = (piece: Piece, options: Abortable) => Promise<AsyncIterable<Uint8Array>>

export const readContent: ReadContent = (store, content, options = {}) =>
  read(content, (piece, pieceOptions) => pieceStream(store, piece, pieceOptions), options)

const defaultCacheBytes = 32 * 1024 * 1024
/** A pack that claims more is read by ranges, like anything else. */
const packBytesMax = 8 * 1024 * 1024

export interface ContentReader {
  read(content: Content, options?: Abortable): AsyncIterable<Uint8Array>
}

/**
 * Reads many contents of one tree: packs are read once, as a whole, and kept while those around them are asked for. To be used
 * by one tree at a time, and dropped.
 */
export const contentReader = (store: BlobStore, cacheBytes = defaultCacheBytes): ContentReader => {
  const packs = new Map<string, { readonly bytes: Promise<Buffer>; readonly sizeBytes: number }>()
  let held = 0

  const drop = (blob: string): void => {
    held -= packs.get(blob)?.sizeBytes ?? 0
    packs.delete(blob)
  }
  const packOf = ({ blob, sizeBytes }: Piece): Promise<Buffer> => {
    const cached = packs.get(blob)
    if (cached) drop(blob)
    // Not by the signal of the first who asks: others wait for it, too.
    const entry = cached ?? { sizeBytes, bytes: wholeOf(store, { blob, sizeBytes }) }
    packs.set(blob, entry)
    held += entry.sizeBytes
    entry.bytes.catch(() => {
      if (packs.get(blob) === entry) drop(blob)
    })
    for (const [oldest] of packs) {
      if (held <= cacheBytes || oldest === blob) break
      drop(oldest)
    }
    return entry.bytes
  }
  const readPiece: ReadPiece = async (piece, options) => {
    const { offset, length, sizeBytes } = piece
    if (offset === undefined || length === undefined || sizeBytes > Math.min(packBytesMax, cacheBytes))
      return pieceStream(store, piece, options)
    const pack = await packOf(piece)
    if (pack.length !== sizeBytes)
      throw corrupt(piece.blob, `${pack.length} bytes, and not the ${sizeBytes} told of it`)
    // A copy: what comes belongs to the reader.
    return one(Uint8Array.from(pack.subarray(offset, offset + length)))
  }
  return { read: (content, options = {}) => read(content, readPiece, options) }
}

async function* one(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

const wholeOf = async (store: BlobStore, piece: Piece): Promise<Buffer> => {
  const parts: Uint8Array[] = []
  for await (const part of await pieceStream(store, piece, {})) parts.push(part)
  return Buffer.concat(parts)
}

const pieceStream = async (
  store: BlobStore,
  { blob, sizeBytes, offset, length }: Piece,
  { signal }: Abortable,
): Promise<AsyncIterable<Uint8Array>> => {
  const range = offset === undefined || length === undefined ? undefined : { start: offset, end: offset + length }
  const stream = await store.get(blob, { signal, range }).catch((thrown) => {
    const short = thrown instanceof BrambleError && thrown.code === 'range_not_satisfiable'
    throw short ? corrupt(blob, `fewer bytes than the ${sizeBytes} told of it`) : thrown
  })
  if (stream.info.sizeBytes !== sizeBytes)
    throw corrupt(blob, `${stream.info.sizeBytes} bytes, and not the ${sizeBytes} told of it`)
  return stream
}

async function* read(
  content: Content,
  readPiece: ReadPiece,
  { signal }: Abortable,
): AsyncGenerator<Uint8Array, void, undefined> {
  signal?.throwIfAborted()
  checkDescriptor(content)
  const { sha256, sizeBytes } = content
  const damaged = (what: string): Error => corrupt(sha256, what)
  yield* verified(abortable(joined(content.pieces, readPiece, signal), signal), { hash: sha256, sizeBytes }, damaged)
}

/** The next piece is asked for while one is read. */
async function* joined(
  pieces: readonly Piece[],
  readPiece: ReadPiece,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array, void, undefined> {
  const open = (index: number): Promise<AsyncIterable<Uint8Array>> | undefined => {
    const piece = pieces[index]
    const stream = piece && readPiece(piece, { signal })
    stream?.catch(() => undefined)
    return stream
  }
  let next = open(0)
  try {
    for (let index = 0; next !== undefined; index++) {
      const stream = await next
      next = open(index + 1)
      yield* stream
    }
  } finally {
    const unread = await next?.catch(() => undefined)
    await unread?.[Symbol.asyncIterator]().return?.()
  }
}

/** Of what is written elsewhere, maybe by somebody who means harm: its numbers must fit each other. */
const checkDescriptor = ({ sizeBytes, sha256, pieces }: Content): void => {
  let sum = 0
  for (const { blob, sizeBytes: blobBytes, offset, length } of pieces) {
    if ((offset === undefined) !== (length === undefined)) throw corrupt(sha256, `a piece of ${blob} without a length`)
    const [start, count] = [offset ?? 0, length ?? blobBytes]
    if (start + count > blobBytes) throw corrupt(sha256, `a piece that ends after the ${blobBytes} bytes of ${blob}`)
    sum += count
  }
  if (sum !== sizeBytes) throw corrupt(sha256, `pieces of ${sum} bytes for a content of ${sizeBytes}`)
}

const corrupt = (hash: string, what: string): BrambleError =>
  new BrambleError('blob_corrupt', { detail: `${hash}: ${what}` })
