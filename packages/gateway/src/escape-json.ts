/** Most bytes that one byte can become: a control character as `\u001b`. */
export const MAX_ESCAPED_BYTES = 6

const BACKSLASH = 0x5c
const HEX = Buffer.from('0123456789abcdef')

/** 0: stands for itself; 1: needs `\u00XX`; else the letter after the backslash (RFC 8259, section 7). */
const ESCAPES = new Uint8Array(256).fill(1, 0, 0x20)
for (const [char, letter] of ['\nn', '\rr', '\tt', '\bb', '\ff', '""', '\\\\'].map((pair) => Buffer.from(pair)))
  if (char !== undefined && letter !== undefined) ESCAPES[char] = letter

/**
 * Writes UTF-8 `source` into `target` from `offset` as the inside of a JSON string, and returns the offset after it.
 * `target` must have room for `MAX_ESCAPED_BYTES` times the source.
 *
 * Only ASCII is ever escaped and UTF-8 keeps ASCII out of its longer characters, so bytes are enough: nothing is decoded, and
 * no garbage is made. Four bytes at a time are looked at in one integer; a word without anything to escape is copied whole.
 */
export const escapeJson = (source: Buffer, target: Buffer, offset: number): number => {
  const from = new DataView(source.buffer, source.byteOffset, source.byteLength)
  const to = new DataView(target.buffer, target.byteOffset, target.byteLength)
  const words = source.length - (source.length % 4)
  let at = offset
  let index = 0
  while (index < words) {
    const word = from.getInt32(index, true)
    // The high bit of each byte of these is set where that byte is >= 0x20, is not `"`, is not `\`.
    const printable = ((word & 0x7f7f7f7f) + 0x60606060) | word
    const quote = word ^ 0x22222222
    const noQuote = ((quote & 0x7f7f7f7f) + 0x7f7f7f7f) | quote
    const slash = word ^ 0x5c5c5c5c
    const noSlash = ((slash & 0x7f7f7f7f) + 0x7f7f7f7f) | slash
    if ((printable & noQuote & noSlash & 0x80808080) === -0x7f7f7f80) {
      to.setInt32(at, word, true)
      at += 4
      index += 4
      continue
    }
    at = escapeBytes(source, index, index + 4, target, at)
    index += 4
  }
  return escapeBytes(source, words, source.length, target, at)
}

const escapeBytes = (source: Buffer, start: number, end: number, target: Buffer, offset: number): number => {
  let at = offset
  for (let index = start; index < end; index++) {
    const byte = source[index] as number
    const code = ESCAPES[byte] as number
    if (code === 0) target[at++] = byte
    else if (code === 1) {
      at += target.write('\\u00', at, 'latin1')
      target[at++] = HEX[byte >> 4] as number
      target[at++] = HEX[byte & 15] as number
    } else {
      target[at++] = BACKSLASH
      target[at++] = code
    }
  }
  return at
}
