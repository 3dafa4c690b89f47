import { BrambleError } from '@bramble/protocol'
import { refused } from './check-entries.ts'
import type { BytePath, LayerEntry } from './seals.ts'

/** The stream of `launcher/layers`: records of a header and what it counts, as `layers.h` has them. */

const HEADER_BYTES = 88
const MAX_PATH_BYTES = 8191
const MAX_TARGET_BYTES = 8191
const MAX_XATTRS_BYTES = 1024 * 1024
const MAX_RECORD_BYTES = HEADER_BYTES + MAX_PATH_BYTES + MAX_TARGET_BYTES + MAX_XATTRS_BYTES
const XATTR_HEADER_BYTES = 8
const FLAG_OPAQUE = 1
const FLAG_TRANSACTION = 2
const FLAG_REFUSED = 1
const NS = 1_000_000_000n
const I64 = 1n << 63n

/** Where the fields of the header are. */
const AT = {
  type: 4,
  flags: 5,
  xattrs: 6,
  mode: 8,
  uid: 12,
  gid: 16,
  modifiedNs: 20,
  modifiedS: 24,
  size: 32,
  inode: 40,
  generation: 48,
  transaction: 56,
  changedS: 64,
  changedNs: 72,
  path: 76,
  target: 80,
} as const

const TYPES = { file: 'f', directory: 'd', symlink: 's', fifo: 'p', link: 'l', deleted: 'w' } as const
const END = '.'
const FAILURE = '!'

/** What the program said does not add up: it died, or the host lies. */
const broken = (detail: string): BrambleError =>
  new BrambleError('store_unavailable', { detail: `the files of a layer cannot be read: ${detail}` })

/** Entries of the stream that `layers walk` writes. Throws `unsupported` for what no snapshot can hold, `store_unavailable`. */
export async function* decodeRecords(source: AsyncIterable<Buffer>): AsyncGenerator<LayerEntry, void, undefined> {
  let rest: Buffer = Buffer.alloc(0)
  let entries = 0
  for await (const chunk of source) {
    const data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (data.length - at >= 4) {
      const bytes = data.readUInt32LE(at)
      if (bytes < HEADER_BYTES || bytes > MAX_RECORD_BYTES) throw broken('a record has no such length')
      if (data.length - at < bytes) break
      const record = data.subarray(at, at + bytes)
      at += bytes
      const type = String.fromCharCode(record.readUInt8(AT.type))
      if (type === FAILURE) throw failureOf(record)
      if (type === END) {
        if (Number(record.readBigUInt64LE(AT.size)) !== entries) throw broken('records are missing')
        return
      }
      entries++
      yield decode(type, record)
    }
    rest = data.subarray(at)
  }
  throw broken('the stream ended in the middle')
}

const failureOf = (record: Buffer): BrambleError => {
  const detail = record.toString('latin1', HEADER_BYTES)
  if ((record.readUInt8(AT.flags) & FLAG_REFUSED) === 0) return broken(detail)
  return new BrambleError('unsupported', { detail: `the files of this sandbox cannot be kept: ${detail}` })
}

const decode = (type: string, record: Buffer): LayerEntry => {
  const pathEnd = HEADER_BYTES + record.readUInt32LE(AT.path)
  const targetEnd = pathEnd + record.readUInt32LE(AT.target)
  if (targetEnd > record.length) throw broken('a record is not whole')
  const path = record.toString('latin1', HEADER_BYTES, pathEnd)
  const target = record.toString('latin1', pathEnd, targetEnd)
  if (type === TYPES.deleted) return { type: 'deleted', path }
  if (type === TYPES.link) return { type: 'link', path, target }
  const xattrs = decodeXattrs(record, targetEnd)
  const attributes = {
    path,
    mode: record.readUInt32LE(AT.mode),
    uid: record.readUInt32LE(AT.uid),
    gid: record.readUInt32LE(AT.gid),
    modifiedNs: record.readBigInt64LE(AT.modifiedS) * NS + BigInt(record.readUInt32LE(AT.modifiedNs)),
    ...(xattrs && { xattrs }),
  }
  const flags = record.readUInt8(AT.flags)
  switch (type) {
    case TYPES.file: {
      const sizeBytes = Number(record.readBigUInt64LE(AT.size))
      const version = (flags & FLAG_TRANSACTION) !== 0 ? versionOf(record) : undefined
      return { type: 'file', ...attributes, sizeBytes, ...(version !== undefined && { version }) }
    }
    case TYPES.directory:
      return { type: 'directory', ...attributes, opaque: (flags & FLAG_OPAQUE) !== 0 }
    case TYPES.symlink:
      return { type: 'symlink', ...attributes, target }
    case TYPES.fifo:
      return { type: 'fifo', ...attributes }
    default:
      throw broken(`there is no record of the type ${JSON.stringify(type)}`)
  }
}

/**
 * The inode (btrfs never gives its number to another file of the subvolume), the transaction that made it and the one that
 * changed it last. Taking a snapshot ends a transaction: a file that was changed after it has a later one, whatever the
 * clock says. Two seals that went different ways from one may have used the same numbers for different bytes; the time makes
 * that unlikely, and comparing with ancestors only makes it impossible.
 */
const versionOf = (record: Buffer): string =>
  [
    record.readBigUInt64LE(AT.inode),
    record.readBigUInt64LE(AT.generation),
    record.readBigUInt64LE(AT.transaction),
    record.readBigInt64LE(AT.changedS),
    record.readUInt32LE(AT.changedNs),
    record.readBigUInt64LE(AT.size),
  ].join('.')

const decodeXattrs = (record: Buffer, from: number): Record<string, Uint8Array> | undefined => {
  const count = record.readUInt16LE(AT.xattrs)
  if (count === 0) return undefined
  const xattrs: Record<string, Uint8Array> = Object.create(null)
  let at = from
  for (let index = 0; index < count; index++) {
    if (record.length - at < XATTR_HEADER_BYTES) throw broken('a record is not whole')
    const name = at + XATTR_HEADER_BYTES
    const value = name + record.readUInt32LE(at)
    const end = value + record.readUInt32LE(at + 4)
    if (end > record.length) throw broken('a record is not whole')
    xattrs[record.toString('latin1', name, value)] = new Uint8Array(record.subarray(value, end))
    at = end
  }
  return xattrs
}

/** A record for `layers write`; after that of a file come its bytes. Throws `import_refused` for what has no record. */
export const encodeRecord = (entry: LayerEntry): Buffer => {
  if (!Object.hasOwn(TYPES, entry.type)) throw refused(entry.path, 'it is of a type that there is not')
  if (entry.type === 'file' && !(Number.isSafeInteger(entry.sizeBytes) && entry.sizeBytes >= 0))
    throw refused(entry.path, 'it has a size that there is not')
  const path = bytesOf(entry.path, entry.path, MAX_PATH_BYTES)
  const target = 'target' in entry ? bytesOf(entry.path, entry.target, MAX_TARGET_BYTES) : EMPTY
  const xattrs = encodeXattrs(entry)
  const bytes = HEADER_BYTES + path.length + target.length + xattrs.bytes
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32LE(bytes, 0)
  header.write(TYPES[entry.type], AT.type, 'latin1')
  header.writeUInt16LE(xattrs.parts.length / 3, AT.xattrs)
  header.writeUInt32LE(path.length, AT.path)
  header.writeUInt32LE(target.length, AT.target)
  if (entry.type === 'file') header.writeBigUInt64LE(BigInt(entry.sizeBytes), AT.size)
  if (entry.type === 'directory' && entry.opaque) header.writeUInt8(FLAG_OPAQUE, AT.flags)
  if ('mode' in entry) writeAttributes(header, entry)
  return Buffer.concat([header, path, target, ...xattrs.parts], bytes)
}

export const encodeEnd = (entries: number): Buffer => {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt32LE(HEADER_BYTES, 0)
  header.write(END, AT.type, 'latin1')
  header.writeBigUInt64LE(BigInt(entries), AT.size)
  return header
}

type Described = Extract<LayerEntry, { mode: number }>

const writeAttributes = (header: Buffer, entry: Described): void => {
  const { mode, uid, gid, modifiedNs } = entry
  const ns = ((modifiedNs % NS) + NS) % NS
  const seconds = (modifiedNs - ns) / NS
  if (![mode, uid, gid].every(isU32) || seconds >= I64 || seconds < -I64)
    throw refused(entry.path, 'it has a mode, an owner or a time that there is not')
  header.writeUInt32LE(mode, AT.mode)
  header.writeUInt32LE(uid, AT.uid)
  header.writeUInt32LE(gid, AT.gid)
  header.writeUInt32LE(Number(ns), AT.modifiedNs)
  header.writeBigInt64LE(seconds, AT.modifiedS)
}

const isU32 = (value: number): boolean => Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff

const EMPTY = Buffer.alloc(0)

/** Strings of bytes only: others would be written as other bytes. */
const bytesOf = (path: BytePath, text: string, maxBytes: number): Buffer => {
  const bytes = Buffer.from(text, 'latin1')
  if (text.length > maxBytes || bytes.toString('latin1') !== text)
    throw refused(path, 'it has a name that there is not')
  return bytes
}

const encodeXattrs = (entry: LayerEntry): { parts: Uint8Array[]; bytes: number } => {
  const parts: Uint8Array[] = []
  let bytes = 0
  for (const [name, value] of Object.entries(('xattrs' in entry && entry.xattrs) || {})) {
    const header = Buffer.alloc(XATTR_HEADER_BYTES)
    header.writeUInt32LE(name.length, 0)
    header.writeUInt32LE(value.length, 4)
    parts.push(header, bytesOf(entry.path, name, 255), value)
    bytes += XATTR_HEADER_BYTES + name.length + value.length
  }
  if (bytes > MAX_XATTRS_BYTES) throw refused(entry.path, 'it has too many bytes of attributes')
  return { parts, bytes }
}
