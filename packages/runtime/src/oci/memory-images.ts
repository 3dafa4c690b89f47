/**
 * The images of CRIU that a sandbox's new identity is in: its mapping of user ids, and its host name. A file is two magic
 * numbers, then messages of Protocol Buffers, each behind its length (criu/images/*.proto).
 */

const HEADER_BYTES = 8
const WIRE_BYTES = 2

const varint = (value: number): Buffer => {
  const bytes: number[] = []
  let rest = value
  do {
    bytes.push((rest % 128) | (rest >= 128 ? 128 : 0))
    rest = Math.floor(rest / 128)
  } while (rest > 0)
  return Buffer.from(bytes)
}

const numberField = (field: number, value: number): Buffer => Buffer.concat([varint(field * 8), varint(value)])
const bytesField = (field: number, bytes: Uint8Array): Buffer =>
  Buffer.concat([varint(field * 8 + WIRE_BYTES), varint(bytes.length), bytes])

/** An image of the same kind as `image`, with one message. */
const imageLike = (image: Buffer, message: Buffer): Buffer => {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(message.length)
  return Buffer.concat([image.subarray(0, HEADER_BYTES), length, message])
}

/** `userns-N.img`: ids 0 to `count` - 1 inside are those from `uidBase` on outside. */
export const usersImage = (image: Buffer, uidBase: number, count: number): Buffer => {
  const extent = Buffer.concat([numberField(1, 0), numberField(2, uidBase), numberField(3, count)])
  return imageLike(image, Buffer.concat([bytesField(1, extent), bytesField(2, extent)]))
}

/** `utsns-N.img`: the host name. */
export const hostnameImage = (image: Buffer, hostname: string): Buffer =>
  imageLike(image, Buffer.concat([bytesField(1, Buffer.from(hostname)), bytesField(2, Buffer.from('(none)'))]))
