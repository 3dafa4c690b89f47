import { BrambleError } from '@bramble/protocol'
import { SDK_LIMITS } from './limits.ts'

/** One dispatched event of a stream of server-sent events (WHATWG HTML, section 9.2). */
export interface SseMessage {
  /** `message` where the stream names none. */
  readonly event: string
  readonly data: string
  /** The last `id` that the stream gave, if it gave one. */
  readonly id: string | undefined
}

export interface SseParser {
  /** Takes the next bytes, cut anywhere, and returns the events that they complete. Throws `bad_response` past the bound. */
  push(chunk: Uint8Array): SseMessage[]
}

export interface SseOptions {
  /** Longest event, in bytes of the stream. */
  readonly maxEventBytes?: number
}

const LF = 10
const CR = 13
const COLON = 58
const SPACE = 32

/**
 * An incremental parser of server-sent events. It works on bytes: a line ends at a CR or LF byte, which UTF-8 never uses
 * inside a character, so only whole lines are decoded, each once, and a character cut by a chunk needs no care. A line
 * spread over many chunks is kept as pieces and joined once; nothing is copied or searched twice.
 */
export const sseParser = (options: SseOptions = {}): SseParser => {
  const maxEventBytes = options.maxEventBytes ?? SDK_LIMITS.maxEventBytes
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let pieces: Uint8Array[] = []
  let pieceBytes = 0
  let eventBytes = 0
  let atStart = true
  let afterCr = false
  let event = ''
  let id: string | undefined
  let data: string[] = []

  const field = (line: Uint8Array): void => {
    const colon = line.indexOf(COLON)
    // A line that starts with a colon is a comment: servers send them as heartbeats.
    if (colon === 0) return
    const name = decoder.decode(colon === -1 ? line : line.subarray(0, colon))
    const value = () =>
      colon === -1 ? '' : decoder.decode(line.subarray(line[colon + 1] === SPACE ? colon + 2 : colon + 1))
    if (name === 'data') data.push(value())
    else if (name === 'event') event = value()
    else if (name === 'id') id = value()
  }

  const takeLine = (messages: SseMessage[], tail: Uint8Array): void => {
    let line = tail
    if (pieces.length > 0) {
      line = join(pieces, tail, pieceBytes)
      pieces = []
      pieceBytes = 0
    }
    if (atStart) {
      atStart = false
      if (line[0] === 0xef && line[1] === 0xbb && line[2] === 0xbf) line = line.subarray(3)
    }
    if (line.length > 0) {
      field(line)
      return
    }
    if (data.length > 0) {
      const [only = ''] = data
      messages.push({ event: event === '' ? 'message' : event, data: data.length === 1 ? only : data.join('\n'), id })
    }
    event = ''
    data = []
    eventBytes = 0
  }

  const count = (bytes: number): void => {
    eventBytes += bytes
    if (eventBytes > maxEventBytes)
      throw new BrambleError('bad_response', { detail: `an event of the stream is longer than ${maxEventBytes} bytes` })
  }

  const push = (chunk: Uint8Array): SseMessage[] => {
    const messages: SseMessage[] = []
    let from = 0
    if (afterCr && chunk.length > 0) {
      afterCr = false
      if (chunk[0] === LF) from = 1
    }
    let cr = chunk.indexOf(CR, from)
    while (from < chunk.length) {
      const lf = chunk.indexOf(LF, from)
      if (cr !== -1 && cr < from) cr = chunk.indexOf(CR, from)
      const end = cr === -1 || (lf !== -1 && lf < cr) ? lf : cr
      if (end === -1) {
        // The chunk may be a view on a buffer that its owner fills again, so what is kept is copied.
        const rest = chunk.slice(from)
        count(rest.length)
        pieces.push(rest)
        pieceBytes += rest.length
        break
      }
      count(end - from + 1)
      takeLine(messages, chunk.subarray(from, end))
      from = end + 1
      if (end === cr) {
        if (from === chunk.length) afterCr = true
        else if (chunk[from] === LF) from++
      }
    }
    return messages
  }

  return { push }
}

const join = (pieces: Uint8Array[], tail: Uint8Array, pieceBytes: number): Uint8Array => {
  const [only] = pieces
  if (tail.length === 0 && pieces.length === 1 && only !== undefined) return only
  const whole = new Uint8Array(pieceBytes + tail.length)
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  whole.set(tail, at)
  return whole
}
