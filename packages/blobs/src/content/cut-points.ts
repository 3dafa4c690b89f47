import { createHash } from 'node:crypto'

/**
 * Where to cut: a rolling hash of the last 32 bytes (the "gear" of FastCDC, Xia et al., USENIX ATC 2016), so that bytes which
 * were inserted or changed move the cuts around them, and no others. Before `normal` a cut needs two more zero bits than
 * chance would have it, after that two fewer: sizes stay near it. All of this is part of what snapshots share: changed
 * numbers, and nothing that was stored before is found again.
 */
export const chunkBytesMin = 64 * 1024
const chunkBytesNormal = 128 * 1024
export const chunkBytesMax = 768 * 1024
const normalBits = 16
const steps = 2

const maskOf = (bits: number): number => (0xffff_ffff << (32 - bits)) >>> 0
const MASK_BEFORE = maskOf(normalBits + steps)
const MASK_AFTER = maskOf(normalBits - steps)

/** Numbers without a pattern, the same everywhere: the beginnings of SHA-256 of `bramble gear 0` to `255`. */
const GEAR = Int32Array.from({ length: 256 }, (_, i) =>
  createHash('sha256').update(`bramble gear ${i}`).digest().readInt32LE(),
)

export interface Cutter {
  /**
   * The end of the chunk, as an index into `piece`, after which the next chunk begins; -1: the chunk goes on after the piece.
   * To be called with what follows the last cut.
   */
  next(piece: Uint8Array, from: number): number
}

export const cutter = (): Cutter => {
  let hash = 0
  /** Bytes of the chunk so far. */
  let length = 0

  /** Rolls over `piece` from `from` to `to`; the end of the chunk, or -1. */
  const roll = (piece: Uint8Array, from: number, to: number, mask: number): number => {
    let rolled = hash
    for (let at = from; at < to; at++) {
      rolled = ((rolled << 1) + (GEAR[piece[at] as number] as number)) | 0
      if ((rolled & mask) === 0) {
        hash = 0
        return at + 1
      }
    }
    hash = rolled
    return -1
  }

  return {
    next: (piece, from) => {
      let at = from
      const upTo = (limit: number): number => Math.min(piece.length, at + limit - length)
      const advance = (to: number): void => {
        length += to - at
        at = to
      }
      const cut = (end: number): number => {
        length = 0
        hash = 0
        return end
      }
      // Where no cut may be, nothing is looked at: half of the time.
      if (length < chunkBytesMin) advance(upTo(chunkBytesMin))
      if (length < chunkBytesMin) return -1
      for (const [limit, mask] of [
        [chunkBytesNormal, MASK_BEFORE],
        [chunkBytesMax, MASK_AFTER],
      ] as const) {
        if (length >= limit) continue
        const to = upTo(limit)
        const end = roll(piece, at, to, mask)
        if (end >= 0) return cut(end)
        advance(to)
        if (at === piece.length && length < limit) return -1
      }
      return length >= chunkBytesMax ? cut(at) : -1
    },
  }
}
