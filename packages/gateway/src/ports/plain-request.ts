import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'

/** What is asked of a request where it is looked at, whoever read it. */
export type PortRequest = Pick<IncomingMessage, 'method' | 'url' | 'headers' | 'rawHeaders'> & {
  readonly socket: Pick<Socket, 'remoteAddress'>
}

/** A request that came whole, in the form that nearly all have. */
export interface PlainRequest extends PortRequest {
  readonly method: string
  readonly url: string
  readonly headers: PlainHeaders
  /** Where its body begins in what was read, and where it ends. */
  readonly headEnd: number
  readonly end: number
}

/** Each at most once. Every header is in `rawHeaders`. */
interface PlainHeaders extends NodeJS.Dict<string | string[]> {
  host: string | undefined
  connection: string | undefined
  accept: string | undefined
  authorization: string | undefined
  cookie: string | undefined
  origin: string | undefined
  'content-length': string | undefined
}

const REQUEST_LINE = /^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (\/[\x21-\x7e]*) HTTP\/1\.1$/
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
// biome-ignore lint/suspicious/noControlCharactersInRegex: it finds what may not be in a head (RFC 9112, 2.2; RFC 9110, 5.5)
const NOT_IN_A_HEAD = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|[^\r]\n/
const LENGTH = /^(?:0|[1-9]\d{0,8})$/
const HEAD_END = Buffer.from('\r\n\r\n')
const MAX_HEADERS = 1000
const [TAB, SPACE] = [9, 32]

const KNOWN = new Set(['host', 'connection', 'accept', 'authorization', 'cookie', 'origin', 'content-length'])

/** What changes how a message is read, or what its connection is for: node:http knows them all. */
const NOT_PLAIN = new Set(['transfer-encoding', 'upgrade', 'expect', 'te', 'trailer', 'http2-settings'])

/**
 * Reads a request of HTTP/1.1 (RFC 9112) that `data` begins with. Undefined where it is not whole, and wherever more than
 * the plainest reading of it is possible: this takes less than node:http does, never something else.
 */
export const readPlainRequest = (
  data: Buffer,
  socket: PortRequest['socket'],
  maxHeaderBytes: number,
): PlainRequest | undefined => {
  const headBytes = data.indexOf(HEAD_END)
  if (headBytes < 0 || headBytes > maxHeaderBytes) return undefined
  const text = data.toString('latin1', 0, headBytes)
  if (NOT_IN_A_HEAD.test(text)) return undefined
  let at = text.indexOf('\r\n')
  const line = REQUEST_LINE.exec(at < 0 ? text : text.slice(0, at))
  if (line === null) return undefined
  const headers: PlainHeaders = {
    host: undefined,
    connection: undefined,
    accept: undefined,
    authorization: undefined,
    cookie: undefined,
    origin: undefined,
    'content-length': undefined,
  }
  const rawHeaders: string[] = []
  while (at >= 0) {
    const from = at + 2
    at = text.indexOf('\r\n', from)
    const to = at < 0 ? text.length : at
    const colon = text.indexOf(':', from)
    if (colon < 0 || colon >= to || rawHeaders.length >= 2 * MAX_HEADERS) return undefined
    const name = text.slice(from, colon)
    if (!FIELD_NAME.test(name)) return undefined
    const value = trimmed(text, colon + 1, to)
    const lower = name.toLowerCase()
    if (KNOWN.has(lower)) {
      if (headers[lower] !== undefined) return undefined
      headers[lower] = value
    } else if (NOT_PLAIN.has(lower)) return undefined
    rawHeaders.push(name, value)
  }
  const { host, connection } = headers
  const length = headers['content-length']
  if (!host || (connection !== undefined && !/^keep-alive$/i.test(connection))) return undefined
  if (length !== undefined && !LENGTH.test(length)) return undefined
  const headEnd = headBytes + HEAD_END.length
  const end = headEnd + Number(length ?? 0)
  if (end > data.length) return undefined
  return { method: line[1] ?? '', url: line[2] ?? '', headers, rawHeaders, socket, headEnd, end }
}

/** Without the optional white space around it (RFC 9110, 5.6.3). */
const trimmed = (text: string, start: number, end: number): string => {
  let [from, to] = [start, end]
  while (from < to && isBlank(text.charCodeAt(from))) from++
  while (to > from && isBlank(text.charCodeAt(to - 1))) to--
  return text.slice(from, to)
}
const isBlank = (code: number): boolean => code === SPACE || code === TAB
