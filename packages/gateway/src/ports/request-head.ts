import { BrambleError } from '@bramble/protocol'
import { type Access, COOKIE } from './access.ts'
import type { PortRequest } from './plain-request.ts'

/** How the body of a request comes, which is how it goes on. */
export type RequestBody = { readonly kind: 'none' } | { readonly kind: 'length' } | { readonly kind: 'chunked' }

/** Of the request's own connection (RFC 9110, 7.6.1), or said anew by us. */
const DROPPED = new Set([
  'host',
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authorization',
  'te',
  'transfer-encoding',
  'content-length',
  'upgrade',
  'expect',
  'http2-settings',
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-prefix',
  'x-forwarded-proto',
  'x-real-ip',
])

const NO_BODY: RequestBody = { kind: 'none' }
const WITH_LENGTH: RequestBody = { kind: 'length' }
const CHUNKED: RequestBody = { kind: 'chunked' }

/** Throws `invalid_request` for a transfer coding that node:http takes and we cannot pass on unchanged. */
export const requestBody = ({ headers }: PortRequest): RequestBody => {
  const coding = headers['transfer-encoding']
  if (coding !== undefined) {
    if (coding.toLowerCase() === 'chunked') return CHUNKED
    throw new BrambleError('invalid_request', { detail: 'the only transfer coding that passes is `chunked`' })
  }
  const length = headers['content-length']
  return length === undefined || length === '0' ? NO_BODY : WITH_LENGTH
}

/** What may stand in a request line: a client of node:http can send other bytes too. */
const TARGET = /^(?:\/[\x21-\x7e\x80-\xff]*|\*)$/

export interface HeadOptions {
  readonly access: Access
  readonly prefix: string
  readonly body: RequestBody
  /** Protocols that the client asks to switch to. */
  readonly upgrade?: string | undefined
}

/** The head of the request as the app gets it, to be written as Latin-1: that is how node:http read it. */
export const requestHead = (request: PortRequest, { access, prefix, body, upgrade }: HeadOptions): string => {
  const { headers, rawHeaders } = request
  const { target } = access
  const path = target.startsWith('/') || target === '*' ? target : `/${target}`
  if (!TARGET.test(path)) throw new BrambleError('invalid_request', { detail: 'the request target is not a path' })
  const listed = listedIn(headers.connection)
  let head = `${request.method} ${path} HTTP/1.1\r\nhost: ${headers.host ?? 'localhost'}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? ''
    const lower = name.toLowerCase()
    if (DROPPED.has(lower) || listed?.has(lower)) continue
    let value = rawHeaders[i + 1] ?? ''
    if (lower === 'authorization' && access.hidesAuthorization) continue
    if (lower === 'cookie' && value.includes(COOKIE)) {
      value = withoutOurCookie(value)
      if (value === '') continue
    }
    head += `${name}: ${value}\r\n`
  }
  if (body.kind === 'chunked') head += 'transfer-encoding: chunked\r\n'
  // As it came, 0 included: a POST without a length is not the same to every server.
  else if (headers['content-length'] !== undefined) head += `content-length: ${headers['content-length']}\r\n`
  if (upgrade !== undefined) head += `connection: upgrade\r\nupgrade: ${upgrade}\r\n`
  else if (/(?:^|,)\s*trailers\s*(?:,|$)/i.test(String(headers.te))) head += 'te: trailers\r\nconnection: te\r\n'
  else head += 'connection: keep-alive\r\n'
  head += `x-forwarded-for: ${request.socket.remoteAddress ?? ''}\r\nx-forwarded-proto: http\r\n`
  head += `x-forwarded-host: ${headers.host ?? ''}\r\n`
  return prefix === '' ? `${head}\r\n` : `${head}x-forwarded-prefix: ${prefix}\r\n\r\n`
}

/** Headers that a `Connection` header names are of that connection too. */
export const listedIn = (connection: string | undefined): Set<string> | undefined => {
  if (connection === undefined || COMMON.has(connection)) return undefined
  return new Set(connection.split(',').map((name) => name.trim().toLowerCase()))
}
const COMMON = new Set(['keep-alive', 'close', 'Keep-Alive', 'Close', 'upgrade', 'Upgrade'])

const withoutOurCookie = (value: string): string =>
  value
    .split(';')
    .filter((pair) => !pair.trimStart().startsWith(`${COOKIE}=`))
    .join(';')
    .trimStart()
