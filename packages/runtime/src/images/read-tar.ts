import { ByteReader } from './byte-reader.ts'
import { imageInvalid } from './image-errors.ts'
import {
  BLOCK_BYTES,
  isZeroBlock,
  parsePaxRecords,
  parseTarHeader,
  type TarHeader,
  type TarType,
} from './tar-header.ts'

/** Extended headers and long names of one entry; they are held in memory. */
export const MAX_EXTENSION_BYTES = 1024 * 1024
const BODY_CHUNK_BYTES = 256 * 1024

export interface TarEntry {
  readonly type: TarType
  /** Bytes as latin1 text, as in the archive: not checked. */
  readonly name: string
  readonly linkName: string
  /** Bytes of the body; 0 for everything but files. */
  readonly sizeBytes: number
  readonly uid: number
  readonly gid: number
  readonly mode: number
  /** Since 1970, as the plain header has it; `pax` may have more. */
  readonly modifiedSeconds: number
  readonly xattrs: readonly string[]
  /** The records of its extended header, as they stand there. */
  readonly pax: ReadonlyMap<string, string>
  /** The header blocks of this entry, extended ones included, to be written again as they are. */
  readonly header: Buffer
  /** Read it before asking for the next entry; what is left is skipped. */
  readonly body: AsyncIterable<Buffer>
}

const TYPES: Readonly<Record<string, TarType>> = {
  '0': 'file',
  '7': 'file',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'device',
  '4': 'device',
  '5': 'directory',
  '6': 'fifo',
}

const padding = (bytes: number) => (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES

/**
 * The entries of a plain tar archive (ustar, pax, GNU), read once, in order, in bounded memory. It reads headers the way
 * Go's archive/tar does, which unpacks them later, and refuses what the two might take differently. An archive that ends
 * without its end marker is `image_invalid`: it was cut short. Global pax headers are dropped.
 */
export async function* readTar(source: AsyncIterable<Buffer>): AsyncGenerator<TarEntry> {
  const reader = new ByteReader(source)
  try {
    let extension = new Extension()
    for (;;) {
      const block = await reader.exactly(BLOCK_BYTES)
      if (block.length < BLOCK_BYTES) throw imageInvalid('the archive is cut short: it has no end marker')
      if (isZeroBlock(block)) break
      const header = parseTarHeader(block)
      if ('xgLK'.includes(header.flag)) {
        await extension.read(header, block, reader)
        continue
      }
      const entry = extension.apply(header, block, reader)
      yield entry
      for await (const _ of entry.body);
      extension = new Extension()
    }
    await reader.drain()
  } finally {
    await reader.close()
  }
}

/** What extended headers said about the entry that follows them. */
class Extension {
  #blocks: Buffer[] = []
  #bytes = 0
  #pax = new Map<string, string>()
  #longName: string | undefined
  #longLink: string | undefined

  async read(header: TarHeader, block: Buffer, reader: ByteReader): Promise<void> {
    const padded = header.sizeBytes + padding(header.sizeBytes)
    this.#bytes += padded + BLOCK_BYTES
    if (this.#bytes > MAX_EXTENSION_BYTES) throw imageInvalid('an entry has extended headers past 1 MiB')
    const data = await reader.exactly(padded)
    if (data.length < padded) throw imageInvalid('the archive is cut short in an extended header')
    const value = data.subarray(0, header.sizeBytes)
    if (header.flag === 'g') return
    if (header.flag === 'x') this.#pax = parsePaxRecords(value)
    else if (header.flag === 'L') this.#longName = upToNul(value)
    else this.#longLink = upToNul(value)
    this.#blocks.push(block, data)
  }

  apply(header: TarHeader, block: Buffer, reader: ByteReader): TarEntry {
    for (const key of this.#pax.keys()) {
      if (key.startsWith('GNU.sparse.')) throw imageInvalid('it holds a sparse file; make it without --sparse')
    }
    const name = this.#longName || this.#pax.get('path') || header.name
    const flagged = TYPES[header.flag]
    if (flagged === undefined)
      throw imageInvalid(`the entry ${printable(name)} has the unknown type ${printable(header.flag)}`)
    const sizeBytes = flagged === 'file' ? this.#number('size', header.sizeBytes) : 0
    const asDirectory = flagged === 'file' && name.endsWith('/')
    if (asDirectory && sizeBytes > 0) throw imageInvalid(`the entry ${printable(name)} is a directory with a body`)
    const type = asDirectory ? 'directory' : flagged
    return {
      type,
      name,
      linkName: this.#longLink || this.#pax.get('linkpath') || header.linkName,
      sizeBytes,
      uid: this.#number('uid', header.uid),
      gid: this.#number('gid', header.gid),
      mode: header.mode,
      modifiedSeconds: header.modifiedSeconds,
      pax: this.#pax,
      xattrs: [...this.#pax.keys()].filter((key) => key.startsWith(XATTR)).map((key) => key.slice(XATTR.length)),
      header: Buffer.concat([...this.#blocks, block]),
      body: bodyOf(reader, name, sizeBytes),
    }
  }

  #number(key: string, fallback: number): number {
    const value = this.#pax.get(key)
    if (value === undefined || value === '') return fallback
    const parsed = /^[0-9]{1,16}$/.test(value) ? Number(value) : Number.NaN
    if (!Number.isSafeInteger(parsed)) throw imageInvalid(`an extended header has the ${key} ${printable(value)}`)
    return parsed
  }
}

const upToNul = (value: Buffer): string => value.toString('latin1').split('\0', 1)[0] ?? ''

const XATTR = 'SCHILY.xattr.'

/** The body's bytes; going on after a break reads the rest, so that the next header is found. */
const bodyOf = (reader: ByteReader, name: string, sizeBytes: number): AsyncIterable<Buffer> => {
  let left = sizeBytes
  let paddingLeft = padding(sizeBytes)
  const next = async (): Promise<IteratorResult<Buffer, undefined>> => {
    if (left > 0) {
      const chunk = await reader.some(Math.min(left, BODY_CHUNK_BYTES))
      if (chunk === undefined) throw imageInvalid(`the archive is cut short in ${printable(name)}`)
      left -= chunk.length
      return { done: false, value: chunk }
    }
    if (paddingLeft > 0) {
      const bytes = paddingLeft
      paddingLeft = 0
      if ((await reader.exactly(bytes)).length < bytes)
        throw imageInvalid(`the archive is cut short after ${printable(name)}`)
    }
    return { done: true, value: undefined }
  }
  return { [Symbol.asyncIterator]: () => ({ next }) }
}

/** A name of an archive, fit for a message: bounded, without control characters. */
export const printable = (name: string): string => {
  const shown = Buffer.from(name.slice(0, 200), 'latin1').toString('utf8')
  return JSON.stringify(name.length > 200 ? `${shown}…` : shown)
}
