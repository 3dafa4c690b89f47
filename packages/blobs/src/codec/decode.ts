import { crc32 } from 'node:zlib'
import type { Codec } from '../blob-store.ts'
import { type ByteRange, maxPieceBytes } from '../pieces.ts'
import { decompress } from './compress.ts'
import {
  blockLength,
  type Footer,
  footerBytes,
  type IndexEntry,
  indexEntryBytes,
  readFooter,
  readIndex,
} from './layout.ts'

/** Blocks that are decoded at once. */
const blocksAhead = 4
/** Read from the end at once: the footer, the index of up to 2 GiB, and all of a small blob. */
export const tailBytes = 64 * 1024

/** The bytes of one stored blob, wherever they are. */
export interface StoredBlob {
  readonly storedBytes: number
  /** Those from `start` to `end` (exclusive), in pieces of any size. Ends early where there are no more. */
  read(start: number, end: number): AsyncIterable<Uint8Array>
}

/** Makes the error to end with of what is wrong with the stored bytes. */
export type Damaged = (what: string) => Promise<Error> | Error

export interface OpenedBlob {
  readonly codec: Codec
  readonly sizeBytes: number
  /** The content in the range, in pieces of at most `maxPieceBytes`; each stored block is held against its CRC. */
  read(range: ByteRange): AsyncGenerator<Uint8Array, void, undefined>
}

/** Reads the footer, and with it what the blob is. */
export const openStored = async (stored: StoredBlob, damaged: Damaged): Promise<OpenedBlob> => {
  const { storedBytes } = stored
  const tailStart = Math.max(0, storedBytes - tailBytes)
  const tail = await all(stored, tailStart, storedBytes)
  const footer = readFooter(tail.subarray(-footerBytes), storedBytes)
  if (typeof footer === 'string') throw await damaged(footer)
  const { codec, sizeBytes } = footer
  return { codec, sizeBytes, read: (range) => decode(withTail(stored, tail, tailStart), footer, range, damaged) }
}

const all = async (stored: StoredBlob, start: number, end: number): Promise<Buffer> => {
  const pieces: Uint8Array[] = []
  for await (const piece of stored.read(start, end)) pieces.push(piece)
  return pieces.length === 1 && pieces[0] ? asBuffer(pieces[0]) : Buffer.concat(pieces)
}

/** Does not read again what was read of the end. */
const withTail = (stored: StoredBlob, tail: Buffer, tailStart: number): StoredBlob => ({
  storedBytes: stored.storedBytes,
  read: async function* (start, end) {
    if (start < tailStart) yield* stored.read(start, Math.min(end, tailStart))
    // A copy: pieces belong to their reader, and the tail is read again.
    if (end > tailStart) yield Uint8Array.from(tail.subarray(Math.max(0, start - tailStart), end - tailStart))
  },
})

async function* decode(
  stored: StoredBlob,
  footer: Footer,
  { start, end }: ByteRange,
  damaged: Damaged,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (start === end) return
  const indexStart = stored.storedBytes - footerBytes - footer.blockCount * indexEntryBytes
  const entries = readIndex(await all(stored, indexStart, stored.storedBytes - footerBytes), footer, stored.storedBytes)
  if (typeof entries === 'string') throw await damaged(entries)
  const blockBytes = 2 ** footer.blockLog2
  const first = Math.floor(start / blockBytes)
  const last = Math.ceil(end / blockBytes)
  const ahead: Promise<Uint8Array | string>[] = []
  let block = first
  const take = async (): Promise<Uint8Array> => {
    const content = (await ahead.shift()) ?? 'no block'
    if (typeof content === 'string') throw await damaged(`${content} ${block}`)
    const offset = block++ * blockBytes
    return content.subarray(Math.max(0, start - offset), end - offset)
  }
  let index = first
  for await (const bytes of storedBlocks(stored, entries, first, last)) {
    ahead.push(contentOf(bytes, entries[index], blockLength(footer, index), footer.codec))
    index++
    if (ahead.length >= blocksAhead) yield* cut(await take())
  }
  if (index < last) throw await damaged(`fewer bytes than its index tells, in block ${index}`)
  while (ahead.length > 0) yield* cut(await take())
}

function* cut(content: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < content.length; at += maxPieceBytes) yield content.subarray(at, at + maxPieceBytes)
}

/** The content of a block, or what is wrong with it. */
const contentOf = async (
  bytes: Buffer,
  entry: IndexEntry | undefined,
  length: number,
  codec: Codec,
): Promise<Uint8Array | string> => {
  if (entry === undefined || crc32(bytes) !== entry.crc) return 'a wrong checksum of block'
  if (!entry.coded || codec === 'none') return bytes
  return (await decompress(codec, bytes, length)) ?? `what is no ${codec} in block`
}

/** The stored bytes of blocks `first` to `last` (exclusive), one after another; ends early where there are no more. */
async function* storedBlocks(
  stored: StoredBlob,
  entries: readonly IndexEntry[],
  first: number,
  last: number,
): AsyncGenerator<Buffer, void, undefined> {
  const lengthOf = (index: number): number => entries[index]?.storedLength ?? 0
  let start = 0
  for (let i = 0; i < first; i++) start += lengthOf(i)
  let end = start
  for (let i = first; i < last; i++) end += lengthOf(i)

  let index = first
  let parts: Uint8Array[] = []
  let length = 0
  for await (const piece of stored.read(start, end)) {
    let rest = piece
    while (index < last && length + rest.length >= lengthOf(index)) {
      const head = rest.subarray(0, lengthOf(index) - length)
      rest = rest.subarray(head.length)
      yield length === 0 ? asBuffer(head) : Buffer.concat([...parts, head])
      parts = []
      length = 0
      index++
    }
    if (rest.length > 0) parts.push(rest)
    length += rest.length
  }
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
