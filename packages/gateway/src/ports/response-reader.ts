/**
 * Reads HTTP/1.1 responses (RFC 9112) of an app, from bytes that are as hostile as the sandbox they come from: everything
 * is bounded, what is ambiguous is refused, and nothing is passed on as it came but the bytes of the body.
 */
export interface ResponseHead {
  readonly minor: 0 | 1
  readonly status: number
  readonly reason: string
  /** Name, value, name, value, … as they came; what frames the message is not among them. */
  readonly headers: readonly string[]
  readonly framing: 'none' | 'length' | 'chunked' | 'close'
  /** Of `length`. */
  readonly bodyBytes: number
  /** Whether the app keeps the connection after this response. */
  readonly keepsAlive: boolean
}

export interface ResponseEvents {
  /** Interim responses (1xx) come here too, before the final one. */
  head(head: ResponseHead): void
  body(data: Buffer): void
  /** With the bytes after the response, where there are any; `trailers` are name, value, … */
  end(trailers: readonly string[], rest: Buffer | undefined): void
}

export class BadResponse extends Error {}

/** Status line and headers of one response. */
export const MAX_RESPONSE_HEAD_BYTES = 64 * 1024
const MAX_CHUNK_LINE_BYTES = 1024
const MAX_INTERIM_RESPONSES = 16
const NO_TRAILERS: readonly string[] = []
const LF = 10
const CR = 13

type State = 'head' | 'length' | 'chunkSize' | 'chunkData' | 'chunkEnd' | 'trailers' | 'close' | 'done'

export class ResponseReader {
  readonly #events: ResponseEvents
  #state: State = 'head'
  #held: Buffer | undefined
  #scanned = 0
  #left = 0
  #isHead = false
  #upgrades = false
  #interim = 0

  constructor(events: ResponseEvents) {
    this.#events = events
  }

  /** For the next response. `method` and `upgrades` (an `Upgrade` was asked for) say what may come. */
  reset(method: string, upgrades: boolean): void {
    this.#state = 'head'
    this.#isHead = method === 'HEAD'
    this.#upgrades = upgrades
    this.#interim = 0
    this.#held = undefined
    this.#scanned = 0
  }

  /** Throws `BadResponse`; the connection is of no use then. */
  feed(chunk: Buffer): void {
    let data = chunk
    if (this.#held !== undefined) {
      data = Buffer.concat([this.#held, chunk])
      this.#held = undefined
    }
    let at = 0
    while (at < data.length || this.#state === 'done') {
      switch (this.#state) {
        case 'length':
        case 'chunkData': {
          const end = Math.min(data.length, at + this.#left)
          this.#left -= end - at
          const whole = this.#left === 0
          if (whole) this.#state = this.#state === 'length' ? 'done' : 'chunkEnd'
          this.#events.body(at === 0 && end === data.length ? data : data.subarray(at, end))
          at = end
          break
        }
        case 'close':
          this.#events.body(at === 0 ? data : data.subarray(at))
          return
        case 'done':
          this.#finish(NO_TRAILERS, data, at)
          return
        default: {
          const next = this.#line(data, at)
          if (next < 0) return
          if (next === FINISHED) return
          at = next
        }
      }
    }
  }

  /** The app closed its side. Throws `BadResponse` where the response is not whole. */
  close(): void {
    if (this.#state !== 'close') throw new BadResponse('the app closed the connection in the middle of its response')
    this.#state = 'done'
    this.#events.end(NO_TRAILERS, undefined)
  }

  #finish(trailers: readonly string[], data: Buffer, at: number): void {
    this.#state = 'head'
    this.#events.end(trailers, at < data.length ? data.subarray(at) : undefined)
  }

  /** Takes what is made of lines; -1 where more bytes are needed. */
  #line(data: Buffer, at: number): number {
    const isBlock = this.#state === 'head' || this.#state === 'trailers'
    const end = isBlock ? blockEnd(data, at, this.#scanned) : data.indexOf(LF, at) + 1
    const max = isBlock ? MAX_RESPONSE_HEAD_BYTES : MAX_CHUNK_LINE_BYTES
    if ((end <= 0 ? data.length : end) - at > max) throw new BadResponse(`more than ${max} bytes of headers`)
    if (end <= 0) {
      this.#held = data.subarray(at)
      this.#scanned = Math.max(0, this.#held.length - 3)
      return -1
    }
    this.#scanned = 0
    const text = data.toString('latin1', at, end)
    switch (this.#state) {
      case 'head':
        return this.#takeHead(text, data, end)
      case 'chunkSize': {
        const size = CHUNK_SIZE.exec(text)?.[1]
        if (size === undefined) throw new BadResponse('a chunk has no size')
        this.#left = Number.parseInt(size, 16)
        this.#state = this.#left === 0 ? 'trailers' : 'chunkData'
        return end
      }
      case 'chunkEnd':
        if (text !== '\r\n' && text !== '\n') throw new BadResponse('a chunk is longer than its size')
        this.#state = 'chunkSize'
        return end
      default:
        this.#finish(parseFields(text === '\n' || text === '\r\n' ? [] : linesOf(text)), data, end)
        return FINISHED
    }
  }

  #takeHead(text: string, data: Buffer, end: number): number {
    const head = parseHead(text, this.#isHead, this.#upgrades)
    const isInterim = head.status < 200 && head.status !== 101
    if (isInterim && ++this.#interim > MAX_INTERIM_RESPONSES) throw new BadResponse('too many interim responses')
    this.#left = head.bodyBytes
    if (isInterim) this.#state = 'head'
    else if (head.framing === 'chunked') this.#state = 'chunkSize'
    else if (head.framing === 'close') this.#state = 'close'
    else this.#state = head.bodyBytes > 0 && head.framing === 'length' ? 'length' : 'done'
    this.#events.head(head)
    if (this.#state !== 'done') return end
    this.#finish(NO_TRAILERS, data, end)
    return FINISHED
  }
}

const FINISHED = -2
const CHUNK_SIZE = /^([0-9a-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r?\n$/i

/** The index after the empty line that ends a block of lines, or -1. A block of trailers may be that line alone. */
const blockEnd = (data: Buffer, from: number, scanned: number): number => {
  if (scanned === 0) {
    if (data[from] === LF) return from + 1
    if (data[from] === CR && data[from + 1] === LF) return from + 2
  }
  for (let at = data.indexOf(LF, from + scanned); at >= 0; at = data.indexOf(LF, at + 1)) {
    const next = data[at + 1]
    if (next === LF) return at + 2
    if (next === CR && data[at + 2] === LF) return at + 3
  }
  return -1
}

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/
const FIELD_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
// biome-ignore lint/suspicious/noControlCharactersInRegex: it finds what may not be in a field (RFC 9110, 5.5)
const NOT_IN_A_FIELD = /[\x00-\x08\x0a-\x1f\x7f]/

/** Optional white space (RFC 9110, 5.6.3); `trim` would also take bytes of UTF-8. */
const AROUND = /^[ \t]+|[ \t]+$/g

/** Lines without their ends, the empty last one left out. */
const linesOf = (text: string): string[] => {
  const lines = text.split('\n')
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] ?? ''
    if (line.charCodeAt(line.length - 1) === CR) lines[i] = line.slice(0, -1)
  }
  lines.length -= 2
  return lines
}

const parseFields = (lines: readonly string[], from = 0): string[] => {
  const fields: string[] = []
  for (let i = from; i < lines.length; i++) {
    const line = lines[i] ?? ''
    const colon = line.indexOf(':')
    const name = line.slice(0, Math.max(0, colon))
    if (!FIELD_NAME.test(name)) throw new BadResponse('a header has no valid name')
    const value = line.slice(colon + 1).replace(AROUND, '')
    if (NOT_IN_A_FIELD.test(value)) throw new BadResponse(`the header ${name} has control characters`)
    fields.push(name, value)
  }
  return fields
}

const parseHead = (text: string, isHead: boolean, upgrades: boolean): ResponseHead => {
  const lines = linesOf(text)
  const status = STATUS_LINE.exec(lines[0] ?? '')
  if (!status) throw new BadResponse('it does not begin with a status line of HTTP/1.x')
  const minor = status[1] === '1' ? 1 : 0
  const code = Number(status[2])
  if (code === 101 && !upgrades) throw new BadResponse('the app switched protocols though nobody asked')
  const fields = parseFields(lines, 1)
  const headers: string[] = []
  let length: string | undefined
  let coding: string | undefined
  let closes = false
  let keeps = false
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i] ?? ''
    const value = fields[i + 1] ?? ''
    switch (name.length) {
      case 14:
        if (name.toLowerCase() !== 'content-length') break
        length = lengthOf(value, length)
        continue
      case 17:
        if (name.toLowerCase() !== 'transfer-encoding') break
        coding = coding === undefined ? value.toLowerCase() : 'many'
        continue
      case 10:
        if (name.toLowerCase() !== 'connection') break
        closes ||= /(?:^|,)\s*close\s*(?:,|$)/i.test(value)
        keeps ||= /(?:^|,)\s*keep-alive\s*(?:,|$)/i.test(value)
    }
    headers.push(name, value)
  }
  if (coding !== undefined && (coding !== 'chunked' || minor === 0))
    throw new BadResponse('its transfer coding is not `chunked`')
  const hasBody = !(isHead || code < 200 || code === 204 || code === 304)
  const framing = !hasBody ? 'none' : coding !== undefined ? 'chunked' : length !== undefined ? 'length' : 'close'
  // A response to HEAD tells the length that GET would have.
  if (length !== undefined && coding === undefined && code >= 200 && code !== 204)
    headers.push('content-length', length)
  return {
    minor,
    status: code,
    reason: status[3] ?? '',
    headers,
    framing,
    bodyBytes: framing === 'length' ? Number(length) : 0,
    // Both lengths together is what request smuggling is made of: the connection is not used again (RFC 9112, 6.3).
    keepsAlive:
      framing !== 'close' && !closes && (minor === 1 || keeps) && !(coding !== undefined && length !== undefined),
  }
}

/** One decimal number; a list of equal ones is that number (RFC 9110, 8.6). */
const lengthOf = (value: string, before: string | undefined): string => {
  let length = before
  for (const part of value.split(',')) {
    const text = part.trim()
    if (!/^\d{1,15}$/.test(text) || (length !== undefined && length !== text))
      throw new BadResponse('its content-length is not a number')
    length = text
  }
  return length ?? '0'
}
