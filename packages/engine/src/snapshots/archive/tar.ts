import { BrambleError } from '@bramble/protocol'

/**
 * As much of POSIX's ustar (pax(1), "ustar Interchange Format") as an archive of a snapshot needs: regular files with short names.
 * A size that eleven octal digits do not hold is in base 256, as GNU tar has it. Whatever else a header says is refused.
 */
const BLOCK_BYTES = 512
const MAX_OCTAL_SIZE = 0o77777777777
const TYPE_FILE = 0x30

export const refused = (detail: string, cause?: unknown): BrambleError =>
  new BrambleError('import_refused', { detail, ...(cause !== undefined && { cause }) })

const octal = (value: number, digits: number): string => `${value.toString(8).padStart(digits, '0')}\0`

const sizeField = (sizeBytes: number): Buffer => {
  if (sizeBytes <= MAX_OCTAL_SIZE) return Buffer.from(octal(sizeBytes, 11), 'latin1')
  const field = Buffer.alloc(12)
  field.writeUInt8(0x80)
  field.writeBigUInt64BE(BigInt(sizeBytes), 4)
  return field
}

/** The same for the same name and size, whoever writes it and when. */
export const tarHeader = (name: string, sizeBytes: number): Buffer => {
  const header = Buffer.alloc(BLOCK_BYTES)
  if (header.write(name, 0, 100, 'latin1') !== name.length) throw new RangeError(`${name} is too long a name`)
  header.write(octal(0o644, 7), 100, 'latin1')
  header.write(octal(0, 7), 108, 'latin1')
  header.write(octal(0, 7), 116, 'latin1')
  sizeField(sizeBytes).copy(header, 124)
  header.write(octal(0, 11), 136, 'latin1')
  header.write('        ', 148, 'latin1')
  header.writeUInt8(TYPE_FILE, 156)
  header.write('ustar\x0000', 257, 'latin1')
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(`${octal(sum, 6)} `, 148, 'latin1')
  return header
}

export const tarPadding = (sizeBytes: number): Buffer =>
  Buffer.alloc((BLOCK_BYTES - (sizeBytes % BLOCK_BYTES)) % BLOCK_BYTES)

export const tarEnd = (): Buffer => Buffer.alloc(2 * BLOCK_BYTES)

export interface TarMember {
  readonly name: string
  readonly sizeBytes: number
}

export interface TarReader {
  /** The next member, whose bytes are to be read before the one after it is asked for. Rejects at the end of the archive. */
  next(): Promise<TarMember>
  /** The bytes of the member that `next` gave, exactly as many as it said. */
  read(): AsyncGenerator<Uint8Array, void, undefined>
  /** Reads on to the end, where nothing but a few zeros may be. */
  end(): Promise<void>
  close(): Promise<void>
}

/** Tools that write in blocks pad an archive to a multiple of 10 KiB; more is not read. */
const maxTrailingBytes = 64 * 1024

export const readTar = (source: AsyncIterable<Uint8Array>): TarReader => {
  const iterator = source[Symbol.asyncIterator]()
  let rest: Uint8Array = new Uint8Array()
  let member: TarMember | undefined
  /** Undefined: there are no more bytes. */
  const some = async (most: number): Promise<Uint8Array | undefined> => {
    while (rest.length === 0) {
      const next = await iterator.next()
      if (next.done) return undefined
      rest = next.value
    }
    const part = rest.subarray(0, most)
    rest = rest.subarray(part.length)
    return part
  }
  const exactly = async function* (sizeBytes: number): AsyncGenerator<Uint8Array, void, undefined> {
    for (let left = sizeBytes; left > 0; ) {
      const part = await some(left)
      if (part === undefined) throw refused('the file is cut off')
      left -= part.length
      yield part
    }
  }
  const all = async (sizeBytes: number): Promise<Buffer> => {
    const parts: Uint8Array[] = []
    for await (const part of exactly(sizeBytes)) parts.push(part)
    return Buffer.concat(parts)
  }
  return {
    async next() {
      member = parseHeader(await all(BLOCK_BYTES))
      return member
    },
    async *read() {
      const { sizeBytes } = member ?? { sizeBytes: 0 }
      yield* exactly(sizeBytes)
      if (!isZero(await all(tarPadding(sizeBytes).length))) throw refused('there is something between two members')
    },
    async end() {
      if (!isZero(await all(2 * BLOCK_BYTES))) throw refused('there is more than the snapshot')
      let left = maxTrailingBytes
      for (let part = await some(left); part !== undefined; part = await some(left)) {
        left -= part.length
        if (!isZero(part) || left <= 0) throw refused('there is something after the end')
      }
    },
    async close() {
      await iterator.return?.()
    },
  }
}

/** Of a file that is no archive at all, its text is no name. */
const isPlain = (name: string): boolean => /^[\x21-\x7e]{1,100}$/.test(name)

const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0)

/** A header is what this program would write for that name and size, to the bit: so there is nothing to hide in one. */
const parseHeader = (header: Buffer): TarMember => {
  const end = header.indexOf(0)
  const name = header.toString('latin1', 0, Math.min(end < 0 ? 100 : end, 100))
  const big = header.readUInt8(124) === 0x80
  const sizeBytes = big ? Number(header.readBigUInt64BE(128)) : Number.parseInt(header.toString('latin1', 124, 135), 8)
  if (isZero(header)) throw refused('it ends before the snapshot does')
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0 || !tarHeader(name, sizeBytes).equals(header))
    throw refused(`a member of the file is not one of a snapshot${isPlain(name) ? `: ${name}` : ''}`)
  return { name, sizeBytes }
}
