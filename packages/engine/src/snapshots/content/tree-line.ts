import { BrambleError, type Content, LIMITS, type TreeEntry } from '@bramble/protocol'

const MAX_ID = 4_294_967_294
const MAX_MODE = 0o7777
const MAX_PATH_CHARS = 8192
const MAX_PIECES = 1_048_576
const MAX_XATTR_NAME_CHARS = 255
const MAX_XATTR_CHARS = 90_000
const HASH = /^[0-9a-f]{64}$/
const DECIMAL = /^-?\d{1,20}$/
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/

type Members = Readonly<Record<string, unknown>>

/** The members that a line of each type has, and may have. */
const ATTRIBUTES = ['type', 'path', 'mode', 'uid', 'gid', 'modifiedNs'] as const
const REQUIRED: Readonly<Record<TreeEntry['type'], readonly string[]>> = {
  file: [...ATTRIBUTES, 'content'],
  link: ['type', 'path', 'target'],
  directory: ATTRIBUTES,
  symlink: [...ATTRIBUTES, 'target'],
  fifo: ATTRIBUTES,
  deleted: ['type', 'path'],
}

/**
 * A line of a tree by the rules of `treeEntrySchema`, at a tenth of what zod takes for it: a tree may have two million.
 * Throws `import_refused`.
 */
export const parseTreeLine = (line: string): TreeEntry => {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (cause) {
    throw new BrambleError('import_refused', { detail: `a line of a tree is not JSON: ${shown(line)}`, cause })
  }
  if (isTreeEntry(value)) return value
  throw new BrambleError('import_refused', { detail: `a line of a tree is not as it should be: ${shown(line)}` })
}

const shown = (line: string): string => JSON.stringify(line.slice(0, 200))

const isMembers = (value: unknown): value is Members =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isCount = (value: unknown, max: number): boolean =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max

const isText = (value: unknown): boolean =>
  typeof value === 'string' && value.length >= 1 && value.length <= MAX_PATH_CHARS

const isTreeEntry = (value: unknown): value is TreeEntry => {
  if (!isMembers(value) || typeof value.type !== 'string' || !Object.hasOwn(REQUIRED, value.type)) return false
  const required = REQUIRED[value.type as TreeEntry['type']]
  const described = required.length >= ATTRIBUTES.length
  let optional = 0
  if (value.encoding !== undefined) optional++
  if (described && value.xattrs !== undefined) optional++
  if (Object.keys(value).length !== required.length + optional) return false
  for (const name of required) if (!Object.hasOwn(value, name)) return false
  return (
    isText(value.path) &&
    (value.encoding === undefined || value.encoding === 'base64') &&
    (!required.includes('target') || isText(value.target)) &&
    (!required.includes('content') || isContent(value.content)) &&
    (!described || areAttributes(value))
  )
}

const areAttributes = (value: Members): boolean =>
  isCount(value.mode, MAX_MODE) &&
  isCount(value.uid, MAX_ID) &&
  isCount(value.gid, MAX_ID) &&
  typeof value.modifiedNs === 'string' &&
  DECIMAL.test(value.modifiedNs) &&
  (value.xattrs === undefined || areXattrs(value.xattrs))

const areXattrs = (value: unknown): boolean => {
  if (!isMembers(value)) return false
  for (const name of Object.keys(value)) {
    const text = value[name]
    if (name.length > MAX_XATTR_NAME_CHARS) return false
    if (typeof text !== 'string' || text.length > MAX_XATTR_CHARS || !BASE64.test(text)) return false
  }
  return true
}

const isSize = (value: unknown): boolean => isCount(value, LIMITS.maxBlobBytes.value)
const isHash = (value: unknown): boolean => typeof value === 'string' && HASH.test(value)

const isContent = (value: unknown): value is Content => {
  if (!isMembers(value) || Object.keys(value).length !== 3) return false
  if (!isSize(value.sizeBytes) || !isHash(value.sha256)) return false
  return Array.isArray(value.pieces) && value.pieces.length <= MAX_PIECES && value.pieces.every(isPiece)
}

const isPiece = (value: unknown): boolean => {
  if (!isMembers(value) || !isHash(value.blob) || !isSize(value.sizeBytes)) return false
  let members = 2
  for (const name of ['offset', 'length'] as const) {
    if (value[name] === undefined) continue
    if (!isSize(value[name])) return false
    members++
  }
  return Object.keys(value).length === members
}
