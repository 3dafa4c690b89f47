import { joinBytes } from '../bytes.ts'

/** Writes tar archives (POSIX.1-2001, pax): ustar headers, with extended records for what does not fit them. */
const BLOCK = 512
const encoder = new TextEncoder()

export interface TarEntry {
  /** Of a directory it may end with `/`. */
  readonly path: string | Uint8Array
  readonly type: 'file' | 'directory' | 'symlink'
  readonly sizeBytes: number
  /** Permission bits. */
  readonly mode: number
  readonly modifiedAtMs: number
  /** Of a symbolic link. */
  readonly target?: string | Uint8Array
}

const TYPE_FLAGS = { file: '0', symlink: '2', directory: '5', pax: 'x' } as const
/** Eleven octal digits. */
const MAX_OCTAL_SIZE = 8 ** 11

/** The blocks before the content of an entry. */
export const tarHeader = (entry: TarEntry): Uint8Array<ArrayBuffer> => {
  const path = bytesOf(entry.path)
  const target = bytesOf(entry.target ?? '')
  const records: Uint8Array[] = []
  if (path.length > 100) records.push(paxRecord('path', path))
  if (target.length > 100) records.push(paxRecord('linkpath', target))
  if (entry.sizeBytes >= MAX_OCTAL_SIZE) records.push(paxRecord('size', encoder.encode(String(entry.sizeBytes))))
  const main = ustarHeader({
    path: path.subarray(0, 100),
    target: target.subarray(0, 100),
    flag: TYPE_FLAGS[entry.type],
    mode: entry.mode & 0o7777,
    size: entry.type === 'file' ? entry.sizeBytes % MAX_OCTAL_SIZE : 0,
    mtime: Math.max(0, Math.floor(entry.modifiedAtMs / 1000)),
  })
  if (records.length === 0) return main
  const body = joinBytes(records)
  const name = encoder.encode('pax')
  const head = ustarHeader({
    path: name,
    target: new Uint8Array(),
    flag: 'x',
    mode: 0o644,
    size: body.length,
    mtime: 0,
  })
  return joinBytes([head, body, tarPadding(body.length), main])
}

/** What follows a content of so many bytes. */
export const tarPadding = (bytes: number): Uint8Array<ArrayBuffer> => new Uint8Array((BLOCK - (bytes % BLOCK)) % BLOCK)

/** The end of an archive. */
export const tarEnd = (): Uint8Array<ArrayBuffer> => new Uint8Array(2 * BLOCK)

const bytesOf = (text: string | Uint8Array): Uint8Array => (typeof text === 'string' ? encoder.encode(text) : text)

/** `<length> <name>=<value>\n`, where the length counts itself. */
const paxRecord = (name: string, value: Uint8Array): Uint8Array => {
  const rest = value.length + name.length + 3
  let length = rest + String(rest).length
  if (rest + String(length).length !== length) length = rest + String(length).length
  return joinBytes([encoder.encode(`${length} ${name}=`), value, encoder.encode('\n')])
}

interface Fields {
  readonly path: Uint8Array
  readonly target: Uint8Array
  readonly flag: string
  readonly mode: number
  readonly size: number
  readonly mtime: number
}

const ustarHeader = ({ path, target, flag, mode, size, mtime }: Fields): Uint8Array<ArrayBuffer> => {
  const header = new Uint8Array(BLOCK)
  const text = (at: number, value: string): void => header.set(encoder.encode(value), at)
  const octal = (at: number, digits: number, value: number): void => text(at, value.toString(8).padStart(digits, '0'))
  header.set(path, 0)
  octal(100, 7, mode)
  octal(108, 7, 0)
  octal(116, 7, 0)
  octal(124, 11, size)
  octal(136, 11, mtime)
  text(148, '        ')
  text(156, flag)
  header.set(target, 157)
  text(257, 'ustar\x0000')
  octal(
    148,
    6,
    header.reduce((sum, byte) => sum + byte, 0),
  )
  header[154] = 0
  return header
}
