import { crc32, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { Temperature } from '../blob-store.ts'
import { bytesOf, noise, text } from '../testing/bytes.ts'
import { entropyOf, seemsToCompress } from './compress.ts'
import { openStored, type StoredBlob } from './decode.ts'
import { type Encoded, encodeBlob } from './encode.ts'
import { type Footer, type IndexEntry, writeFooter, writeIndex } from './layout.ts'

const KiB = 1024
const MiB = 1024 * KiB

const encode = async (content: Uint8Array, temperature: Temperature): Promise<Encoded & { stored: Buffer }> => {
  const pieces: Uint8Array[] = []
  const encoding = encodeBlob([content], temperature)
  for (;;) {
    const next = await encoding.next()
    if (next.done) return { ...next.value, stored: Buffer.concat(pieces) }
    pieces.push(next.value)
  }
}

/** Stored bytes in memory, given in pieces of `step`; counts what was read. */
const inMemory = (bytes: Buffer, step = 10_000): StoredBlob & { readonly readBytes: () => number } => {
  let readBytes = 0
  return {
    storedBytes: bytes.length,
    readBytes: () => readBytes,
    read: async function* (start, end) {
      for (let at = start; at < end; at += step) {
        const piece = Uint8Array.from(bytes.subarray(at, Math.min(end, at + step)))
        readBytes += piece.length
        yield piece
      }
    },
  }
}

const damaged = (what: string): Error => new Error(`damaged: ${what}`)
const decodeAll = async (stored: Buffer): Promise<Buffer> => {
  const blob = await openStored(inMemory(stored), damaged)
  return bytesOf(blob.read({ start: 0, end: blob.sizeBytes, whole: true }))
}

/** A stored blob whose footer and index are right in themselves, whatever they say. */
const forge = (blocks: readonly Buffer[], entries: readonly Partial<IndexEntry>[], footer: Partial<Footer>): Buffer => {
  const index = writeIndex(
    blocks.map((block, i) => ({ storedLength: block.length, coded: true, crc: crc32(block), ...entries[i] })),
  )
  const whole = {
    codec: 'lz4',
    blockLog2: 18,
    sizeBytes: 0,
    blockCount: blocks.length,
    indexCrc: crc32(index),
    ...footer,
  } as const
  return Buffer.concat([...blocks, index, writeFooter(whole)])
}

describe('the codec', () => {
  test('is chosen by what the data is', async () => {
    expect(await encode(text(MiB), 'hot')).toMatchObject({ codec: 'lz4', sizeBytes: MiB })
    expect(await encode(text(MiB), 'cold')).toMatchObject({ codec: 'zstd', sizeBytes: MiB })
    for (const temperature of ['hot', 'cold'] as const) {
      expect(await encode(noise(MiB), temperature)).toMatchObject({ codec: 'none' })
      expect(await encode(text(100), temperature)).toMatchObject({ codec: 'none' })
      expect(await encode(Buffer.alloc(0), temperature)).toMatchObject({ codec: 'none', storedBytes: 32 })
    }
  })

  test('tells its size', async () => {
    for (const content of [text(3 * MiB), noise(3 * MiB), Buffer.concat([noise(MiB), text(MiB)])])
      for (const temperature of ['hot', 'cold'] as const) {
        const { stored, storedBytes, sizeBytes } = await encode(content, temperature)
        expect(storedBytes).toBe(stored.length)
        expect(sizeBytes).toBe(content.length)
        expect((await decodeAll(stored)).equals(content)).toBe(true)
      }
  })

  test('costs little where nothing compresses, and finds what does after that', async () => {
    const { storedBytes } = await encode(noise(8 * MiB), 'hot')
    expect(storedBytes - 8 * MiB).toBeLessThan(300)
    const mixed = await encode(Buffer.concat([noise(4 * MiB), text(16 * MiB)]), 'hot')
    expect(mixed.codec).toBe('lz4')
    expect(mixed.storedBytes).toBeLessThan(12 * MiB)
  })

  test('a range reads the blocks that it is in, and no others', async () => {
    const content = Buffer.concat(Array.from({ length: 16 }, (_, i) => text(256 * KiB, i)))
    const { stored } = await encode(content, 'hot')
    const source = inMemory(stored)
    const blob = await openStored(source, damaged)
    const before = source.readBytes()
    const range = { start: 5 * 256 * KiB + 100, end: 5 * 256 * KiB + 200, whole: false }
    expect(await bytesOf(blob.read(range))).toEqual(content.subarray(range.start, range.end))
    expect(source.readBytes() - before).toBeLessThan(stored.length / 8)
  })

  test('entropy tells noise from what compresses', () => {
    expect(entropyOf(Buffer.alloc(1000))).toBe(0)
    expect(entropyOf(noise(256 * KiB))).toBeGreaterThan(7.9)
    expect(entropyOf(text(256 * KiB))).toBeLessThan(5)
    expect(seemsToCompress(noise(256 * KiB))).toBe(false)
    expect(seemsToCompress(Buffer.from('short'))).toBe(false)
  })
})

describe('hostile stored bytes', () => {
  test('every flipped bit of a small blob is found', async () => {
    const { stored } = await encode(text(2000), 'hot')
    for (let at = 0; at < stored.length; at++) {
      const changed = Buffer.from(stored)
      changed.writeUInt8(changed.readUInt8(at) ^ (1 << (at % 8)), at)
      await expect(decodeAll(changed), `byte ${at}`).rejects.toThrow('damaged')
    }
  })

  test('every place where it may end', async () => {
    const { stored } = await encode(text(700), 'cold')
    for (let length = 0; length < stored.length; length++)
      await expect(decodeAll(stored.subarray(0, length)), `${length} bytes`).rejects.toThrow('damaged')
  })

  test('blocks that expand to more than they are to be', async () => {
    const zeros = zstdCompressSync(Buffer.alloc(64 * MiB))
    await expect(decodeAll(forge([zeros], [], { codec: 'zstd', sizeBytes: 256 * KiB }))).rejects.toThrow('no zstd')
    // LZ4 with a prefix that asks for 4 GiB, and one that tells the truth of a block that has more.
    const lz4 = Buffer.from([0xff, 0xff, 0xff, 0xff, 0x1f, 0x41, 1, 0, 255, 255, 255, 255, 255, 0, 0x50, 1, 2, 3, 4, 5])
    await expect(decodeAll(forge([lz4], [], { sizeBytes: 256 * KiB }))).rejects.toThrow('no lz4')
    lz4.writeUInt32LE(200, 0)
    await expect(decodeAll(forge([lz4], [], { sizeBytes: 200 }))).rejects.toThrow('no lz4')
  })

  test('blocks that are shorter than they are to be, or no blocks', async () => {
    const short = zstdCompressSync(Buffer.alloc(1000))
    await expect(decodeAll(forge([short], [], { codec: 'zstd', sizeBytes: 256 * KiB }))).rejects.toThrow('no zstd')
    for (const codec of ['zstd', 'lz4'] as const)
      for (const bytes of [noise(1000), Buffer.alloc(0), Buffer.alloc(3)])
        await expect(decodeAll(forge([bytes], [], { codec, sizeBytes: 2000 }))).rejects.toThrow('damaged')
  })

  test('an index or a footer that claims what cannot be', async () => {
    const block = noise(1000)
    const forged = [
      forge([block], [{ coded: false }], { sizeBytes: 1001 }),
      forge([block], [{ coded: false, storedLength: 5 }], { sizeBytes: 1000 }),
      forge([block], [{ coded: true }], { codec: 'none', sizeBytes: 2000 }),
      forge([block], [{ coded: false }], { sizeBytes: 1000, blockCount: 4_000_000_000 }),
      forge([block], [{ coded: false }], { sizeBytes: Number.MAX_SAFE_INTEGER }),
      forge([block], [{ coded: false }], { sizeBytes: 1000, blockLog2: 31 }),
      forge([block], [{ coded: false }], { sizeBytes: 1000, blockLog2: 2 }),
      forge([block, block], [{ coded: false }, { coded: false }], { sizeBytes: 1000, blockCount: 1 }),
    ]
    for (const [i, stored] of forged.entries())
      await expect(decodeAll(stored), `forgery ${i}`).rejects.toThrow('damaged')
  })
})
