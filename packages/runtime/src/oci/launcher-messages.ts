import type { Readable } from 'node:stream'

/** Largest message of the launcher that is read; the longest is the list of 4,096 kept sandboxes. */
const MAX_MESSAGE_BYTES = 1024 * 1024

/** One message to the launcher: a little-endian u32 length, then fields of UTF-8, each ended by a NUL. */
export const encodeMessage = (fields: readonly string[]): Buffer => {
  const text = Buffer.from(`${fields.join('\0')}\0`)
  const length = Buffer.allocUnsafe(4)
  length.writeUInt32LE(text.length)
  return Buffer.concat([length, text])
}

/** Calls back for each message of the launcher, and once for one that is none; the rest is not read then. */
export const readMessages = (stream: Readable, onMessage: (fields: string[]) => void, onGarbage: () => void): void => {
  let rest: Buffer = Buffer.alloc(0)
  stream.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (rest.length - at >= 4) {
      const length = rest.readUInt32LE(at)
      if (length === 0 || length > MAX_MESSAGE_BYTES) return onGarbage()
      if (rest.length - at - 4 < length) break
      onMessage(rest.toString('utf8', at + 4, at + 4 + length - 1).split('\0'))
      at += 4 + length
    }
    rest = rest.subarray(at)
  })
}
