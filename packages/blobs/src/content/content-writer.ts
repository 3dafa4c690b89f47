import { createHash, hash as hashAtOnce } from 'node:crypto'
import { type BlobHash, BrambleError, type Content } from '@bramble/protocol'
import type { ContentTotals, ContentWriter, ContentWriterOptions } from '../content.ts'
import { piecesOf } from '../pieces.ts'
import { cutter } from './cut-points.ts'

/**
 * What is no larger goes into packs, so that a tree of ordinary files is not a store of small blobs, each with its own flushes. It
 * is stored again as a whole when it changes; larger contents are cut.
 */
const smallBytesMax = 512 * 1024
const packBytesMax = 4 * 1024 * 1024
/** Chunks that are being stored while the next is cut: what a content holds in memory, in chunks of less than 1 MiB. */
const storingMax = 4
/** Small contents whose equals are found again within one writer. */
const rememberedMax = 100_000
/** Larger ones are hashed in another thread. */
const hashedAtOnceBytes = 64 * 1024

type Piece = Content['pieces'][number]

interface Pack {
  parts: Uint8Array[]
  sizeBytes: number
  blob?: BlobHash
}

/** Cuts, packs and stores; see `ContentWriter`. Several contents may be added at once. */
export const contentWriter = ({ store, lease, temperature, known }: ContentWriterOptions): ContentWriter => {
  const totals = { contents: 0, sizeBytes: 0, newBlobs: 0, newStoredBytes: 0 }
  const storing = new Map<BlobHash, Promise<void>>()
  const remembered = new Map<string, () => Content>()
  const packing = new Set<Promise<void>>()
  let pack: Pack = { parts: [], sizeBytes: 0 }

  const storeNew = async (hash: BlobHash, bytes: Uint8Array): Promise<void> => {
    // What is there need not be coded and written to find that out.
    if (await held([hash])) return
    const info = await store.put(bytes, { expect: hash, sizeBytes: bytes.length, lease, temperature })
    totals.newBlobs++
    totals.newStoredBytes += info.storedBytes
  }
  const storeBlob = async (bytes: Uint8Array): Promise<BlobHash> => {
    const hash = await hashOf(bytes)
    const stored = storing.get(hash) ?? storeNew(hash, bytes).finally(() => storing.delete(hash))
    storing.set(hash, stored)
    await stored
    return hash
  }
  /** Whether all of them are there; then they stay. */
  const held = async (hashes: readonly BlobHash[]): Promise<boolean> => {
    try {
      await lease.hold(hashes, { here: true })
      return true
    } catch (thrown) {
      if (thrown instanceof BrambleError && thrown.code === 'blob_not_found') return false
      throw thrown
    }
  }

  const closePack = (): Promise<void> => {
    const full = pack
    if (full.sizeBytes === 0) return Promise.resolve()
    pack = { parts: [], sizeBytes: 0 }
    const stored = (async () => {
      full.blob = await storeBlob(Buffer.concat(full.parts, full.sizeBytes))
      full.parts = []
    })()
    // One that fails stays: `finish` tells of it, whoever else was told.
    packing.add(stored)
    stored.then(
      () => packing.delete(stored),
      () => undefined,
    )
    return stored
  }

  const addSmall = async (bytes: Uint8Array, sha256: BlobHash): Promise<() => Content> => {
    const sizeBytes = bytes.length
    if (sizeBytes === 0) return () => ({ sizeBytes, sha256, pieces: [] })
    const equal = remembered.get(sha256)
    if (equal) return equal
    const earlier = known?.(sha256, sizeBytes)
    const fits = earlier?.sizeBytes === sizeBytes && earlier.sha256 === sha256
    if (fits && (await held(earlier.pieces.map(({ blob }) => blob)))) return () => earlier
    // Nothing is awaited from here on, so that contents that are added at once do not share a place.
    const full = pack.sizeBytes + sizeBytes > packBytesMax ? closePack() : undefined
    const mine = pack
    const offset = mine.sizeBytes
    mine.parts.push(bytes)
    mine.sizeBytes += sizeBytes
    const descriptor = (): Content => ({ sizeBytes, sha256, pieces: [pieceOf(mine, offset, sizeBytes)] })
    if (remembered.size < rememberedMax) remembered.set(sha256, descriptor)
    await full
    return descriptor
  }

  return {
    add: async (source, { signal } = {}) => {
      const sha256 = createHash('sha256')
      const cut = cutter()
      const pieces: Piece[] = []
      const ahead: Promise<void>[] = []
      let parts: Uint8Array[] = []
      let partBytes = 0
      let sizeBytes = 0
      const closeChunk = async (): Promise<void> => {
        const bytes = joined(parts, partBytes)
        parts = []
        partBytes = 0
        const index = pieces.length
        pieces.push({ blob: '' as BlobHash, sizeBytes: bytes.length })
        const stored = storeBlob(bytes).then((blob) => {
          pieces[index] = { blob, sizeBytes: bytes.length }
        })
        stored.catch(() => undefined)
        ahead.push(stored)
        if (ahead.length >= storingMax) await ahead.shift()
      }
      const cutUp = async (piece: Uint8Array): Promise<void> => {
        for (let from = 0; from < piece.length; ) {
          const end = cut.next(piece, from)
          const part = piece.subarray(from, end < 0 ? undefined : end)
          parts.push(part)
          partBytes += part.length
          from += part.length
          if (end >= 0) await closeChunk()
        }
      }
      const head: Uint8Array[] = []
      for await (const piece of piecesOf(source, signal)) {
        sha256.update(piece)
        sizeBytes += piece.length
        head.push(piece)
        if (sizeBytes > smallBytesMax) for (const early of head.splice(0)) await cutUp(early)
      }
      const hash = sha256.digest('hex') as BlobHash
      totals.contents++
      totals.sizeBytes += sizeBytes
      if (sizeBytes <= smallBytesMax) return addSmall(joined(head, sizeBytes), hash)
      if (partBytes > 0) await closeChunk()
      await Promise.all(ahead)
      return () => ({ sizeBytes, sha256: hash, pieces })
    },
    finish: async () => {
      await Promise.all([closePack(), ...packing])
      return { ...totals } satisfies ContentTotals
    },
  }
}

/** A copy only where it must be one: what a source gives is not changed by anybody. */
const joined = (parts: readonly Uint8Array[], bytes: number): Uint8Array =>
  parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts, bytes)

const pieceOf = (pack: Pack, offset: number, length: number): Piece => {
  const { blob, sizeBytes } = pack
  if (blob === undefined) throw new Error('the pack of this content is not stored yet: finish() comes first')
  return sizeBytes === length ? { blob, sizeBytes } : { blob, sizeBytes, offset, length }
}

const hashOf = async (bytes: Uint8Array): Promise<BlobHash> => {
  if (bytes.length <= hashedAtOnceBytes) return hashAtOnce('sha256', bytes) as BlobHash
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>)
  return Buffer.from(digest).toString('hex') as BlobHash
}
