import { bytesToHex } from '@noble/hashes/utils.js'

/** Bytes as `0x` and lower-case hex. */
export const toHex = (bytes: Uint8Array): string => `0x${bytesToHex(bytes)}`

/** A hex digit's value by its character code; 16 and more where it is none. Upper case is refused: there is one form. */
const digitOf = (code: number): number =>
  code >= 48 && code <= 57 ? code - 48 : code >= 97 && code <= 102 ? code - 87 : 16

/** Writes `0x` hex into `target` at `offset`. Throws a `TypeError` unless it is `length` bytes in lower case. */
export const writeHex = (target: Uint8Array, offset: number, hex: string, length: number): void => {
  if (hex.length !== 2 + 2 * length || hex.charCodeAt(0) !== 48 || hex.charCodeAt(1) !== 120)
    throw new TypeError(`expected 0x and ${2 * length} hex digits, not ${hex.length} characters`)
  for (let index = 0; index < length; index += 1) {
    const high = digitOf(hex.charCodeAt(2 * index + 2))
    const low = digitOf(hex.charCodeAt(2 * index + 3))
    if ((high | low) > 15) throw new TypeError('expected lower-case hex digits')
    target[offset + index] = (high << 4) | low
  }
}

/** The bytes of `0x` hex. Throws a `TypeError` unless there are `length` of them. */
export const bytesOfHex = (hex: string, length: number): Uint8Array<ArrayBuffer> => {
  const bytes = new Uint8Array(length)
  writeHex(bytes, 0, hex, length)
  return bytes
}
