import { type FileHandle, open } from 'node:fs/promises'

/** pip's cached answers (CacheControl's serializer, version 4): this, then msgpack. */
const MAGIC = 'cc=4,'
const VALUES_MAX = 4096
const DEPTH_MAX = 8
const VALIDATORS: readonly string[] = ['etag', 'last-modified']
const LONGEST_KEY_BYTES = 32

type Value = { kind: 'text' | 'scalar'; bytes: number } | { kind: 'map' | 'array'; bytes: 0; count: number }
interface Token {
  readonly value: Value
  readonly headBytes: number
}

const text = (bytes: number, headBytes: number): Token => ({ value: { kind: 'text', bytes }, headBytes })
const scalar = (bytes: number): Token => ({ value: { kind: 'scalar', bytes }, headBytes: 1 })
const many = (kind: 'map' | 'array', count: number, headBytes: number): Token => ({
  value: { kind, bytes: 0, count },
  headBytes,
})

/** What begins with these bytes, by the msgpack specification; undefined for what pip never writes. */
const tokenOf = (head: Buffer): Token | undefined => {
  const first = head[0] ?? 0xc1
  if (first < 0x80 || first >= 0xe0) return scalar(0)
  if (first < 0x90) return many('map', first & 15, 1)
  if (first < 0xa0) return many('array', first & 15, 1)
  if (first < 0xc0) return text(first & 31, 1)
  switch (first) {
    case 0xc0:
    case 0xc2:
    case 0xc3:
      return scalar(0)
    case 0xc4:
    case 0xd9:
      return text(head.readUInt8(1), 2)
    case 0xc5:
    case 0xda:
      return text(head.readUInt16BE(1), 3)
    case 0xc6:
    case 0xdb:
      return text(head.readUInt32BE(1), 5)
    case 0xca:
    case 0xce:
    case 0xd2:
      return scalar(4)
    case 0xcb:
    case 0xcf:
    case 0xd3:
      return scalar(8)
    case 0xcc:
    case 0xd0:
      return scalar(1)
    case 0xcd:
    case 0xd1:
      return scalar(2)
    case 0xdc:
      return many('array', head.readUInt16BE(1), 3)
    case 0xde:
      return many('map', head.readUInt16BE(1), 3)
    default:
      return undefined
  }
}

/**
 * Takes out of an answer in pip's cache what pip would ask the server with whether it still holds: without an ETag or a date,
 * the page of an index, which pip never takes from the cache without asking, is fetched anew, and no sandbox can say what is in
 * it for another. Archives are compared with the checksums of that page. Returns whether the file is such an answer.
 */
export const removeValidators = async (file: string): Promise<boolean> => {
  await using handle = await open(file, 'r+')
  const { size } = await handle.stat()
  if ((await bytesAt(handle, 0, MAGIC.length)).toString('latin1') !== MAGIC) return false
  let values = 0

  const skip = async (at: number, depth: number, isKey: boolean): Promise<number | undefined> => {
    const token = tokenOf(Buffer.concat([await bytesAt(handle, at, 5), Buffer.alloc(5)]))
    if (token === undefined || at >= size || depth > DEPTH_MAX || ++values > VALUES_MAX) return undefined
    const { value } = token
    const from = at + token.headBytes
    if (isKey && value.kind !== 'text') return undefined
    if (isKey) await disguise(handle, from, value.bytes)
    if (!('count' in value)) return from + value.bytes
    const isMap = value.kind === 'map'
    let next: number | undefined = from
    for (let i = 0; next !== undefined && i < value.count * (isMap ? 2 : 1); i++)
      next = await skip(next, depth + 1, isMap && i % 2 === 0)
    return next
  }

  return (await skip(MAGIC.length, 0, false)) === size
}

/** A header of another name, as long as it was. */
const disguise = async (handle: FileHandle, at: number, bytes: number): Promise<void> => {
  if (bytes > LONGEST_KEY_BYTES) return
  const name = (await bytesAt(handle, at, bytes)).toString('latin1').toLowerCase()
  if (VALIDATORS.includes(name)) await handle.write(Buffer.from('x'), 0, 1, at)
}

const bytesAt = async (handle: FileHandle, at: number, bytes: number): Promise<Buffer> => {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, at)
  return buffer.subarray(0, bytesRead)
}
