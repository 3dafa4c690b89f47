import { isUtf8 } from 'node:buffer'

/** Output that one event carries: a larger chunk of the engine becomes several. */
export const MAX_PIECE_BYTES = 64 * 1024

/** Bytes for one event, and whether they can be shown as text. */
export interface OutputPiece {
  readonly bytes: Buffer
  readonly text: boolean
}

/**
 * Cuts one output stream into pieces that never split a UTF-8 character: the beginning of one waits for its rest. Bytes that
 * are not UTF-8, or hold a NUL (which text seldom does and JSON writes as six bytes), are not text.
 */
export interface OutputCutter {
  cut(chunk: Uint8Array): Generator<OutputPiece>
  /** What was held back, at the end of the stream: half a character. */
  rest(): OutputPiece | undefined
}

/** `maxBytes`: of one piece. */
export const outputCutter = (maxBytes = MAX_PIECE_BYTES): OutputCutter => {
  let held: Buffer | undefined
  return {
    *cut(chunk) {
      let bytes = Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
      if (held) bytes = Buffer.concat([held, bytes])
      held = undefined
      for (let start = 0; start < bytes.length; ) {
        const part = bytes.subarray(start, start + maxBytes)
        const length = part.length - incompleteTail(part)
        const last = start + part.length === bytes.length
        if (last && length < part.length) held = Buffer.from(part.subarray(length))
        start += last ? part.length : length
        if (length === 0) continue
        const piece = part.subarray(0, length)
        yield { bytes: piece, text: !piece.includes(0) && isUtf8(piece) }
      }
    },
    rest: () => {
      const bytes = held
      held = undefined
      return bytes && { bytes, text: false }
    },
  }
}

/** How many bytes at the end (0 to 3) begin a UTF-8 character that is not whole. */
const incompleteTail = (bytes: Buffer): number => {
  for (let back = 1; back <= 3 && back <= bytes.length; back++) {
    const byte = bytes[bytes.length - back] as number
    if (byte < 0x80) return 0
    if (byte < 0xc0) continue
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
    return byte < 0xf8 && length > back ? back : 0
  }
  return 0
}
