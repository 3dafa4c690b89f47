import type { ResponseHead } from './response-reader.ts'
import { trailerFields } from './trailers.ts'

export interface HeadText {
  readonly status: number
  readonly reason: string
  /** Name, value, …, all of which are known to be right. */
  readonly headers: readonly string[]
  /** How long the connection waits for another request; undefined where it ends. */
  readonly keepAliveMs: number | undefined
}

/** The head of a response as the client gets it, to be written as Latin-1. */
export const headText = ({ status, reason, headers, keepAliveMs }: HeadText): string => {
  let text = `HTTP/1.1 ${status} ${reason}\r\n`
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`
  return keepAliveMs === undefined
    ? `${text}connection: close\r\n\r\n`
    : `${text}connection: keep-alive\r\nkeep-alive: timeout=${Math.floor(keepAliveMs / 1000)}\r\n\r\n`
}

/** `100` is ours to say, and older clients know no other than `103`. */
export const interimText = ({ status, headers }: ResponseHead): string => {
  if (status !== 103) return ''
  let text = ''
  for (let i = 0; i < headers.length; i += 2)
    if (headers[i]?.toLowerCase() === 'link') text += `link: ${headers[i + 1]}\r\n`
  return text === '' ? '' : `HTTP/1.1 103 Early Hints\r\n${text}\r\n`
}

/** The end of a body that goes in chunks. */
export const trailersText = (trailers: readonly string[]): string => `0\r\n${trailerFields(trailers)}\r\n`
