import { crc32 } from 'node:zlib'
import { BrambleError, LIMITS } from '@bramble/protocol'
import type { Codec, Temperature } from '../blob-store.ts'

/**
 * A stored blob: blocks, index, footer. The content is cut into blocks of one size (the last one shorter), each coded
 * on its own, or kept as it is where coding saves nothing. The index has, per block, the stored length (bit 31: coded)
 * and the CRC-32 of the stored bytes, as two little-endian u32. The footer stands at the end because a stream tells its
 * size last, and an object store cannot be written twice. `docs/storage.md` has the table.
 */
const blockLog2Min = 18
const blockLog2Max = 22
export const footerBytes = 32
export const indexEntryBytes = 8

const version = 1
const codedBit = 0x8000_0000
const MAGIC = Buffer.from('bramblob', 'latin1')
const CODECS: readonly Codec[] = ['none', 'lz4', 'zstd']

/** Small blocks are quickly read in part; large ones compress better, by a tenth. */
export const blockLog2Of = (temperature: Temperature): number => (temperature === 'hot' ? blockLog2Min : 20)

export interface Footer {
  readonly codec: Codec
  /** Blocks have 2 to the power of this many bytes. */
  readonly blockLog2: number
  readonly sizeBytes: number
  readonly blockCount: number
  readonly indexCrc: number
}

export interface IndexEntry {
  readonly storedLength: number
  readonly coded: boolean
  readonly crc: number
}

export const blocksOf = (sizeBytes: number, blockLog2: number): number => Math.ceil(sizeBytes / 2 ** blockLog2)

/** What a content takes at most: coded blocks are shorter than what they code. */
export const storedBytesMax = (sizeBytes: number): number =>
  sizeBytes + blocksOf(sizeBytes, blockLog2Min) * indexEntryBytes + footerBytes

/** How much content block `index` has. */
export const blockLength = ({ sizeBytes, blockLog2 }: Footer, index: number): number =>
  Math.min(2 ** blockLog2, sizeBytes - index * 2 ** blockLog2)

export const writeIndex = (entries: readonly IndexEntry[]): Buffer => {
  const bytes = Buffer.allocUnsafe(entries.length * indexEntryBytes)
  entries.forEach(({ storedLength, coded, crc }, i) => {
    bytes.writeUInt32LE((storedLength | (coded ? codedBit : 0)) >>> 0, i * indexEntryBytes)
    bytes.writeUInt32LE(crc, i * indexEntryBytes + 4)
  })
  return bytes
}

export const writeFooter = ({ codec, blockLog2, sizeBytes, blockCount, indexCrc }: Footer): Buffer => {
  const bytes = Buffer.alloc(footerBytes)
  bytes.writeUInt8(version, 0)
  bytes.writeUInt8(CODECS.indexOf(codec), 1)
  bytes.writeUInt8(blockLog2, 2)
  bytes.writeBigUInt64LE(BigInt(sizeBytes), 4)
  bytes.writeUInt32LE(blockCount, 12)
  bytes.writeUInt32LE(indexCrc, 16)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 20)), 20)
  MAGIC.copy(bytes, 24)
  return bytes
}

/** What is wrong with it, or the footer. Of the last bytes of a blob that takes `storedBytes`. */
export const readFooter = (bytes: Buffer, storedBytes: number): Footer | string => {
  if (bytes.length !== footerBytes || !bytes.subarray(24).equals(MAGIC)) return 'no footer'
  if (crc32(bytes.subarray(0, 20)) !== bytes.readUInt32LE(20)) return 'a footer with a wrong checksum'
  const written = bytes.readUInt8(0)
  // Whole, and written by a newer release: nothing that may be set aside.
  if (written !== version)
    throw new BrambleError('store_unavailable', {
      detail: `a blob has version ${written} of the format, not ${version}`,
    })
  const codec = CODECS[bytes.readUInt8(1)]
  const blockLog2 = bytes.readUInt8(2)
  const sizeBytes = Number(bytes.readBigUInt64LE(4))
  const blockCount = bytes.readUInt32LE(12)
  const fits =
    codec !== undefined &&
    blockLog2 >= blockLog2Min &&
    blockLog2 <= blockLog2Max &&
    sizeBytes <= LIMITS.maxBlobBytes.value &&
    blockCount === blocksOf(sizeBytes, blockLog2) &&
    storedBytes >= blockCount * indexEntryBytes + footerBytes
  return fits
    ? { codec, blockLog2, sizeBytes, blockCount, indexCrc: bytes.readUInt32LE(16) }
    : 'a footer that cannot be'
}

/** What is wrong with it, or the entries: exactly as many stored bytes as lie before the index. */
export const readIndex = (bytes: Buffer, footer: Footer, storedBytes: number): IndexEntry[] | string => {
  if (crc32(bytes) !== footer.indexCrc) return 'an index with a wrong checksum'
  const entries: IndexEntry[] = []
  let sum = 0
  for (let i = 0; i < footer.blockCount; i++) {
    const word = bytes.readUInt32LE(i * indexEntryBytes)
    const coded = word >= codedBit
    const storedLength = word & ~codedBit
    const length = blockLength(footer, i)
    if (coded ? footer.codec === 'none' || storedLength >= length : storedLength !== length)
      return 'an index that cannot be'
    sum += storedLength
    entries.push({ storedLength, coded, crc: bytes.readUInt32LE(i * indexEntryBytes + 4) })
  }
  return sum + bytes.length + footerBytes === storedBytes ? entries : 'another length than its index tells'
}
