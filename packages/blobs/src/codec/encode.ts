import { crc32 } from 'node:zlib'
import type { Codec, Temperature } from '../blob-store.ts'
import { seemsToCompress, tryCompress } from './compress.ts'
import { blockLog2Of, type IndexEntry, writeFooter, writeIndex } from './layout.ts'

/** Blocks that are coded at once, by other threads than the one that hashes. */
const blocksAhead = 4
/** After a block that did not compress, so many are kept as they are; twice as many after the next. */
const pauseMax = 8

export interface Encoded {
  readonly codec: Codec
  readonly sizeBytes: number
  readonly storedBytes: number
}

/**
 * The stored form of a content, as it comes. `codec` of the result is `none` when no block compressed. Pieces have at most
 * `maxPieceBytes`, and are not changed by anybody until the end.
 */
export async function* encodeBlob(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  temperature: Temperature = 'hot',
): AsyncGenerator<Uint8Array, Encoded, undefined> {
  const coder = temperature === 'hot' ? 'lz4' : 'zstd'
  const blockLog2 = blockLog2Of(temperature)
  const entries: IndexEntry[] = []
  const ahead: Promise<CodedBlock>[] = []
  let sizeBytes = 0
  let bodyBytes = 0
  let codec: Codec = 'none'
  let pause = 0
  let nextPause = 1

  const code = async (block: Uint8Array): Promise<CodedBlock> => {
    if (pause > 0) {
      pause--
      return { stored: block, coded: false }
    }
    const coded = seemsToCompress(block) ? await tryCompress(block, temperature) : undefined
    if (coded) {
      nextPause = 1
      return { stored: coded, coded: true }
    }
    pause = nextPause
    nextPause = Math.min(nextPause * 2, pauseMax)
    return { stored: block, coded: false }
  }
  const take = async (): Promise<Uint8Array> => {
    const { stored, coded } = (await ahead.shift()) ?? { stored: new Uint8Array(0), coded: false }
    if (coded) codec = coder
    entries.push({ storedLength: stored.length, coded, crc: crc32(stored) })
    bodyBytes += stored.length
    return stored
  }

  for await (const block of blocksFrom(pieces, 2 ** blockLog2)) {
    sizeBytes += block.length
    const coding = code(block)
    coding.catch(() => undefined)
    ahead.push(coding)
    if (ahead.length > blocksAhead) yield await take()
  }
  while (ahead.length > 0) yield await take()
  const index = writeIndex(entries)
  const footer = writeFooter({ codec, blockLog2, sizeBytes, blockCount: entries.length, indexCrc: crc32(index) })
  yield Buffer.concat([index, footer])
  return { codec, sizeBytes, storedBytes: bodyBytes + index.length + footer.length }
}

interface CodedBlock {
  readonly stored: Uint8Array
  readonly coded: boolean
}

/** Pieces put together, or cut, to blocks; those that are blocks already are handed on as they are. */
async function* blocksFrom(
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  blockBytes: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  let parts: Uint8Array[] = []
  let length = 0
  for await (const piece of pieces) {
    let rest = piece
    while (length + rest.length >= blockBytes) {
      const head = rest.subarray(0, blockBytes - length)
      rest = rest.subarray(head.length)
      yield length === 0 ? head : Buffer.concat([...parts, head], blockBytes)
      parts = []
      length = 0
    }
    if (rest.length === 0) continue
    parts.push(rest)
    length += rest.length
  }
  if (length > 0) yield parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts, length)
}
