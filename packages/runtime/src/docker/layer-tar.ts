import type { TarEntry } from '../images/read-tar.ts'
import { BLOCK_BYTES } from '../images/tar-header.ts'
import { exactly, refused } from '../seals/check-entries.ts'
import type { BytePath, LayerEntry } from '../seals/seals.ts'

/**
 * Layers as the archives that images are made of (OCI image specification, `layer.md`): a name that begins with `.wh.` says
 * that the image's file without it is hidden, `.wh..wh..opq` that all of the directory is. A file cannot have such a name.
 */
const WHITEOUT = '.wh.'
const OPAQUE = '.wh..wh..opq'
const XATTR = 'SCHILY.xattr.'
const NS = 1_000_000_000n
const MAX_OCTAL = { id: 0o7_777_777, size: 0o77_777_777_777 } as const

export type LayerFile = Exclude<LayerEntry, { type: 'deleted' }>
export type LayerItem =
  | LayerFile
  | { readonly type: 'hides'; readonly path: BytePath }
  | { readonly type: 'opaque'; readonly path: BytePath }

const modifiedOf = (entry: TarEntry): bigint => {
  const [, sign, seconds, fraction = ''] = /^(-?)(\d{1,20})(?:\.(\d+))?$/.exec(entry.pax.get('mtime') ?? '') ?? []
  if (seconds === undefined) return BigInt(entry.modifiedSeconds) * NS
  const ns = BigInt(seconds) * NS + BigInt(fraction.slice(0, 9).padEnd(9, '0'))
  return sign === '-' ? -ns : ns
}

const plainPath = (name: string): BytePath =>
  name
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/')

/** What an entry of such an archive says; undefined for what no snapshot holds, and for the root itself. */
export const decodeLayerEntry = (entry: TarEntry, version: string): LayerItem | undefined => {
  const path = plainPath(entry.name)
  const slash = path.lastIndexOf('/') + 1
  const name = path.slice(slash)
  if (path === '') return undefined
  if (name === OPAQUE) return { type: 'opaque', path: path.slice(0, Math.max(0, slash - 1)) }
  if (name.startsWith(WHITEOUT)) return { type: 'hides', path: path.slice(0, slash) + name.slice(WHITEOUT.length) }
  const xattrs: Record<string, Uint8Array> = {}
  for (const [key, value] of entry.pax)
    if (key.startsWith(XATTR)) xattrs[key.slice(XATTR.length)] = new Uint8Array(Buffer.from(value, 'latin1'))
  const { uid, gid, sizeBytes } = entry
  const owned = { path, mode: entry.mode & 0o7777, uid, gid, modifiedNs: modifiedOf(entry) }
  const attributes = { ...owned, ...(Object.keys(xattrs).length > 0 && { xattrs }) }
  switch (entry.type) {
    case 'file':
      return { type: 'file', ...attributes, sizeBytes, version }
    case 'directory':
      return { type: 'directory', ...attributes, opaque: false }
    case 'symlink':
      return { type: 'symlink', ...attributes, target: entry.linkName }
    case 'fifo':
      return { type: 'fifo', ...attributes }
    case 'hardlink':
      return { type: 'link', path, target: plainPath(entry.linkName) }
    case 'device':
      return undefined
    default:
      return entry.type satisfies never
  }
}

/** `entries`, checked, as such an archive. Throws `import_refused` for what it cannot tell. */
export async function* encodeLayer(
  entries: AsyncIterable<LayerEntry>,
  read: (path: BytePath) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const files = new Map<BytePath, Attributes>()
  for await (const entry of entries) {
    const { path } = entry
    const slash = path.lastIndexOf('/') + 1
    if (path.startsWith(WHITEOUT, slash)) throw refused(path, `${WHITEOUT} begins no name in the layers of images`)
    if (entry.type === 'deleted') {
      yield header({ name: path.slice(0, slash) + WHITEOUT + path.slice(slash), flag: '0' })
      continue
    }
    yield encodeEntry(entry, files)
    if (entry.type === 'directory' && entry.opaque) yield header({ name: `${path}/${OPAQUE}`, flag: '0' })
    if (entry.type === 'file') {
      for await (const chunk of exactly(path, entry.sizeBytes, read(path))) yield chunk
      yield Buffer.alloc(padding(entry.sizeBytes))
    }
  }
  yield Buffer.alloc(2 * BLOCK_BYTES)
}

const padding = (bytes: number): number => (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES

const FLAGS = { file: '0', link: '1', symlink: '2', directory: '5', fifo: '6' } as const

type Attributes = Pick<Header, 'mode' | 'uid' | 'gid' | 'modifiedNs'>

/** `files`: attributes of those that came. The engine gives a file the attributes that any name of it has in the archive. */
const encodeEntry = (entry: LayerFile, files: Map<BytePath, Attributes>): Buffer => {
  const { path: name } = entry
  const flag = FLAGS[entry.type]
  if (entry.type === 'link') return header({ name, flag, linkName: entry.target, ...files.get(entry.target) })
  const { mode, uid, gid, modifiedNs, xattrs = {} } = entry
  if (entry.type === 'file') files.set(name, { mode, uid, gid, modifiedNs })
  const pax: [string, Buffer][] = Object.entries(xattrs).map(([key, value]) => [XATTR + key, Buffer.from(value)])
  return header({
    ...{ name, flag, mode, uid, gid, modifiedNs, pax },
    ...(entry.type === 'symlink' && { linkName: entry.target }),
    ...(entry.type === 'file' && { sizeBytes: entry.sizeBytes }),
  })
}

interface Header {
  readonly name: BytePath
  readonly flag: string
  readonly linkName?: BytePath
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  readonly sizeBytes?: number
  readonly modifiedNs?: bigint
  readonly pax?: readonly [string, Buffer][]
}

const decimal = (ns: bigint): string => {
  const positive = ns < 0n ? -ns : ns
  return `${ns < 0n ? '-' : ''}${positive / NS}.${String(positive % NS).padStart(9, '0')}`
}

/** A header of pax(5): what does not fit into the block of ustar stands in the one before it. */
const header = (entry: Header): Buffer => {
  const { name, flag, linkName = '', mode = 0, uid = 0, gid = 0, sizeBytes = 0, modifiedNs = 0n } = entry
  const records: [string, Buffer][] = [...(entry.pax ?? [])]
  const text = (key: string, value: string) => records.push([key, Buffer.from(value, 'latin1')])
  text('path', name)
  if (linkName !== '') text('linkpath', linkName)
  text('mtime', decimal(modifiedNs))
  if (uid > MAX_OCTAL.id) text('uid', String(uid))
  if (gid > MAX_OCTAL.id) text('gid', String(gid))
  if (sizeBytes > MAX_OCTAL.size) text('size', String(sizeBytes))
  const extended = Buffer.concat(records.map(([key, value]) => record(key, value)))
  return Buffer.concat([
    block({ name: 'pax', flag: 'x', sizeBytes: extended.length }),
    extended,
    Buffer.alloc(padding(extended.length)),
    block({ name, flag, linkName, mode, uid, gid, sizeBytes, modifiedNs }),
  ])
}

/** The length counts itself. */
const record = (key: string, value: Buffer): Buffer => {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), value, Buffer.from('\n')])
  let length = rest.length
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length
  return Buffer.concat([Buffer.from(String(length)), rest])
}

const block = ({ name, flag, linkName = '', mode = 0, uid = 0, gid = 0, sizeBytes = 0, modifiedNs = 0n }: Header) => {
  const bytes = Buffer.alloc(BLOCK_BYTES)
  const octal = (value: number, at: number, digits: number, max: number) =>
    bytes.write((value > max ? 0 : value).toString(8).padStart(digits, '0'), at, 'latin1')
  const seconds = Number(modifiedNs / NS)
  bytes.write(name.slice(0, 100), 0, 'latin1')
  octal(mode, 100, 7, 0o7777)
  octal(uid, 108, 7, MAX_OCTAL.id)
  octal(gid, 116, 7, MAX_OCTAL.id)
  octal(sizeBytes, 124, 11, MAX_OCTAL.size)
  octal(Math.max(0, seconds), 136, 11, MAX_OCTAL.size)
  bytes.write(' '.repeat(8), 148, 'latin1')
  bytes.write(flag, 156, 'latin1')
  bytes.write(linkName.slice(0, 100), 157, 'latin1')
  bytes.write('ustar\0', 257, 'latin1')
  bytes.write('00', 263, 'latin1')
  const sum = bytes.reduce((total, byte) => total + byte, 0)
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1')
  return bytes
}
