import { promisify } from 'node:util'
import { constants, zstdCompress, zstdCompressSync, zstdDecompress } from 'node:zlib'
import lz4 from 'lz4-napi'
import type { Temperature } from '../blob-store.ts'

const compressZstd = promisify(zstdCompress)
const decompressZstd = promisify(zstdDecompress)

const zstdLevel = 3
/** LZ4 blocks are preceded by their content's length, a little-endian u32. */
const lz4PrefixBytes = 4
/** Below this, going to another thread costs more than the work. */
const syncBytesMax = 16 * 1024
const coderBytesMin = 128
/** Coding must save a sixteenth, or the block is kept as it is: reading it costs nothing then. */
const savedShare = 16

const sampleBytes = 1024
const samplesMin = 4
/** A pack of small files is looked at in more places than one: what some of them are, the others need not be. */
const bytesPerSample = 64 * 1024
/** Bits a byte. Noise measures 7.95 with the fewest samples; what is more even than this does not compress. */
const entropyMax = 7.8

/** Shannon entropy of a few places of the block, in bits a byte: the cheap question before the dear one. */
export const entropyOf = (block: Uint8Array): number => {
  const counts = new Uint32Array(256)
  const samples = Math.max(samplesMin, Math.floor(block.length / bytesPerSample))
  const part = Math.min(block.length, sampleBytes * samples) / samples
  const stride = (block.length - part) / (samples - 1)
  let total = 0
  for (let sample = 0; sample < samples; sample++) {
    const start = Math.floor(sample * stride)
    const end = Math.min(block.length, Math.floor(start + part))
    for (let at = start; at < end; at++) {
      const byte = block[at] ?? 0
      counts[byte] = (counts[byte] ?? 0) + 1
    }
    total += end - start
  }
  let bits = 0
  for (const count of counts) if (count > 0) bits -= count * Math.log2(count / total)
  return total === 0 ? 0 : bits / total
}

/** Whether trying to code the block is worth the time. */
export const seemsToCompress = (block: Uint8Array): boolean =>
  block.length >= coderBytesMin && entropyOf(block) < entropyMax

const compress = async (block: Uint8Array, temperature: Temperature): Promise<Uint8Array> => {
  const small = block.length <= syncBytesMax
  switch (temperature) {
    case 'hot':
      return small ? lz4.compressSync(Buffer.from(block.buffer, block.byteOffset, block.length)) : lz4.compress(block)
    case 'cold': {
      // An output chunk for the whole block, or it would come in pieces of 16 KiB, each a turn of the event loop.
      const options = { params: { [constants.ZSTD_c_compressionLevel]: zstdLevel }, chunkSize: block.length + 1024 }
      return small ? zstdCompressSync(block, options) : compressZstd(block, options)
    }
    default:
      return temperature satisfies never
  }
}

/** The block coded, or undefined where that saves too little. */
export const tryCompress = async (block: Uint8Array, temperature: Temperature): Promise<Uint8Array | undefined> => {
  const coded = await compress(block, temperature)
  return coded.length <= block.length - block.length / savedShare ? coded : undefined
}

/** The content of a coded block, never more than `length` bytes; undefined: it is not that of a block of this length. */
export const decompress = async (
  codec: 'lz4' | 'zstd',
  coded: Buffer,
  length: number,
): Promise<Uint8Array | undefined> => {
  try {
    const content = codec === 'lz4' ? await decompressLz4(coded, length) : await unpackZstd(coded, length)
    return content?.length === length ? content : undefined
  } catch {
    // Whatever the decoder says of bytes that are no block: it is not a block.
    return undefined
  }
}

const decompressLz4 = async (coded: Buffer, length: number): Promise<Uint8Array | undefined> => {
  // The decoder allocates what the prefix tells.
  if (coded.length < lz4PrefixBytes || coded.readUInt32LE(0) !== length) return undefined
  return length <= syncBytesMax ? lz4.uncompressSync(coded) : lz4.uncompress(coded)
}

const unpackZstd = (coded: Buffer, length: number): Promise<Buffer> =>
  decompressZstd(coded, { maxOutputLength: length, chunkSize: Math.max(length, 64) })
