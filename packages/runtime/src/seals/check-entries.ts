import { BrambleError, LIMITS } from '@bramble/protocol'
import type { BytePath, LayerEntry } from './seals.ts'

const MAX_NAME_BYTES = 255
const MAX_XATTR_NAME_BYTES = 255
const MAX_XATTR_VALUE_BYTES = 65_536
const MAX_ID = 4_294_967_294
const MAX_MODIFIED_NS = 1n << 94n
/** xattr(7): of the sandbox's own kinds; `trusted.` and the other `security.` are the host's. */
const XATTR_NAME = /^(user\.|security\.capability$)/

/**
 * The entries of a `SealSource` one by one, as long as they are what the interface says: in order, each once, below
 * directories, with attributes that a file may have. What is not throws `import_refused` with the path.
 */
export async function* checkedEntries(
  entries: AsyncIterable<LayerEntry> | Iterable<LayerEntry>,
): AsyncGenerator<LayerEntry, void, undefined> {
  const types = new Map<BytePath, LayerEntry['type']>()
  let last: BytePath | undefined
  for await (const entry of entries) {
    const { path } = entry
    if (types.size >= LIMITS.maxSnapshotEntries.value) throw refused(path, 'there are too many entries')
    checkPath(path)
    if (last !== undefined && path <= last) throw refused(path, path === last ? 'it comes twice' : 'it is out of order')
    for (let at = path.indexOf('/'); at > 0; at = path.indexOf('/', at + 1)) {
      const parent = types.get(path.slice(0, at))
      if (parent !== undefined && parent !== 'directory') throw refused(path, `what it is in is a ${parent}`)
    }
    checkEntry(entry, types)
    types.set(path, entry.type)
    last = path
    yield entry
  }
}

/** `detail` says what is wrong with the entry at `path`. */
export const refused = (path: BytePath, detail: string): BrambleError =>
  new BrambleError('import_refused', {
    detail: `${JSON.stringify(Buffer.from(path, 'latin1').toString().slice(0, 200))}: ${detail}`,
  })

const isBytes = (text: string): boolean => {
  for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) > 255 || text.charCodeAt(at) === 0) return false
  return true
}

const checkPath = (path: BytePath): void => {
  if (path.length === 0 || path.length > LIMITS.maxPathBytes.value || !isBytes(path)) throw refused(path, 'no path')
  for (const name of path.split('/'))
    if (name === '' || name === '.' || name === '..' || name.length > MAX_NAME_BYTES)
      throw refused(path, 'it is not a path below the root')
}

const checkEntry = (entry: LayerEntry, types: ReadonlyMap<BytePath, LayerEntry['type']>): void => {
  const { path } = entry
  switch (entry.type) {
    case 'deleted':
      return
    case 'link':
      if (types.get(entry.target) !== 'file') throw refused(path, 'it is a link to no file that came before')
      return
    case 'file':
      if (!Number.isSafeInteger(entry.sizeBytes) || entry.sizeBytes < 0) throw refused(path, 'no size')
      break
    case 'symlink':
      if (entry.target.length === 0 || entry.target.length > LIMITS.maxPathBytes.value || !isBytes(entry.target))
        throw refused(path, 'a link to nothing')
      break
    case 'directory':
    case 'fifo':
      break
    default:
      throw refused(path, `it is of the unknown type ${String((entry satisfies never as { type: unknown }).type)}`)
  }
  const { mode, uid, gid, modifiedNs } = entry
  if (!Number.isInteger(mode) || mode < 0 || mode > 0o7777) throw refused(path, `the mode ${mode}`)
  for (const id of [uid, gid])
    if (!Number.isInteger(id) || id < 0 || id > MAX_ID) throw refused(path, `the owner ${id}`)
  if (modifiedNs > MAX_MODIFIED_NS || modifiedNs < -MAX_MODIFIED_NS) throw refused(path, 'no time')
  for (const [name, value] of Object.entries(entry.xattrs ?? {}))
    if (!XATTR_NAME.test(name) || !isBytes(name) || name.length > MAX_XATTR_NAME_BYTES)
      throw refused(path, `the attribute ${JSON.stringify(name.slice(0, 64))}`)
    else if (value.length > MAX_XATTR_VALUE_BYTES) throw refused(path, `the attribute ${name} is too large`)
}

/** Exactly `sizeBytes` bytes, or `import_refused`. */
export async function* exactly(
  path: BytePath,
  sizeBytes: number,
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let left = sizeBytes
  for await (const chunk of source) {
    left -= chunk.length
    if (left < 0) throw refused(path, `it has more than the ${sizeBytes} bytes that were said`)
    yield chunk
  }
  if (left > 0) throw refused(path, `it has ${sizeBytes - left} bytes, not the ${sizeBytes} that were said`)
}
