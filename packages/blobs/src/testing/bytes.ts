import { createCipheriv, createHash } from 'node:crypto'
import type { BlobHash } from '@bramble/protocol'

/** Bytes that do not compress: AES-CTR of zeros, the same for the same seed. */
export const noise = (sizeBytes: number, seed = 0): Buffer => {
  const iv = Buffer.alloc(16)
  iv.writeUInt32BE(seed)
  return createCipheriv('aes-128-ctr', Buffer.alloc(16), iv).update(Buffer.alloc(sizeBytes))
}

/** Bytes that compress: numbered lines. */
export const text = (sizeBytes: number, seed = 0): Buffer => {
  const lines: string[] = []
  let length = 0
  for (let line = seed * 1_000_003; length < sizeBytes; line++) {
    const said = `line ${line}: the quick brown fox jumps over ${(line * 7919) % 1009} lazy dogs\n`
    lines.push(said)
    length += said.length
  }
  return Buffer.from(lines.join('')).subarray(0, sizeBytes)
}

export const hashOf = (...pieces: Uint8Array[]): BlobHash => {
  const sha256 = createHash('sha256')
  for (const piece of pieces) sha256.update(piece)
  return sha256.digest('hex') as BlobHash
}

/** A hash that no bytes of a test have. */
export const absentHash = 'f'.repeat(64) as BlobHash

/** All of a stream. */
export const bytesOf = async (stream: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const pieces: Uint8Array[] = []
  for await (const piece of stream) pieces.push(piece)
  return Buffer.concat(pieces)
}

export const listOf = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}
