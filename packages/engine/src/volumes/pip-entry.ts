import { type FileHandle, open } from 'node:fs/promises'

/** pip's cached answers (CacheControl's serializer, version 4): this, then msgpack. */
const MAGIC = 'cc=4,'
const VALUES_MAX = 4096
const DEPTH_MAX = 8
const VALIDATORS: readonly string[] = ['etag', 'last-modified']
const TEXT_BYTES_MAX = 128
const HEAD_BYTES_MAX = 5
/** 200, as msgpack has it. */
const STATUS_OK = Buffer.from([0xcc, 200])
/** What registries send archives as. */
const ARCHIVE_TYPE =
  /^(application|binary)\/(octet-stream|zip|x-zip-compressed|x-wheel\+zip|gzip|x-gzip|x-tar|x-tar\+gzip)$/i

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
 * Makes an answer in pip's cache one that says nothing of which archive is meant, or returns false where it does: pip believes
 * pages of an index and redirects that are fresh by their own words, and older ones if the server knows their ETag or date.
 * So only answers with an archive are let through, and those without an ETag and a date.
 */
export const isArchiveAnswer = async (file: string): Promise<boolean> => {
  await using handle = await open(file, 'r+')
  const { size } = await handle.stat()
  if ((await bytesAt(handle, 0, MAGIC.length)).toString('latin1') !== MAGIC) return false
  let values = 0

  const tokenAt = async (at: number): Promise<Token | undefined> => {
    const head = await bytesAt(handle, at, HEAD_BYTES_MAX)
    return at < size && ++values <= VALUES_MAX
      ? tokenOf(Buffer.concat([head, Buffer.alloc(HEAD_BYTES_MAX)]))
      : undefined
  }
  /** Where the text there ends, and what it is, if it is no longer than what is looked for. */
  const textAt = async (at: number): Promise<{ end: number; text: string } | undefined> => {
    const token = await tokenAt(at)
    if (token?.value.kind !== 'text') return undefined
    const [from, { bytes }] = [at + token.headBytes, token.value]
    return {
      end: from + bytes,
      text: bytes > TEXT_BYTES_MAX ? '' : (await bytesAt(handle, from, bytes)).toString('latin1'),
    }
  }
  const isFine = async (name: string, at: number): Promise<boolean> => {
    if (name === 'status') return (await bytesAt(handle, at, STATUS_OK.length)).equals(STATUS_OK)
    return name !== 'content-type' || ARCHIVE_TYPE.test((await textAt(at))?.text ?? '')
  }
  const skip = async (at: number, depth: number): Promise<number | undefined> => {
    const token = await tokenAt(at)
    if (token === undefined || depth > DEPTH_MAX) return undefined
    const { value } = token
    let next: number | undefined = at + token.headBytes
    if (!('count' in value)) return next + value.bytes
    for (let i = 0; next !== undefined && i < value.count; i++) {
      if (value.kind === 'map') {
        const key = await textAt(next)
        const name = key?.text.toLowerCase() ?? ''
        if (key === undefined || !(await isFine(name, key.end))) return undefined
        // A header of another name, as long as it was.
        if (VALIDATORS.includes(name)) await handle.write('x', key.end - name.length)
        next = key.end
      }
      next = await skip(next, depth + 1)
    }
    return next
  }

  return (await skip(MAGIC.length, 0)) === size
}

const bytesAt = async (handle: FileHandle, at: number, bytes: number): Promise<Buffer> => {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(bytes), 0, bytes, at)
  return buffer.subarray(0, bytesRead)
}
