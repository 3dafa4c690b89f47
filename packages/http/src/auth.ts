import type { IncomingMessage } from 'node:http'
import { BrambleError, type Quota, type Scope } from '@bramble/protocol'
import { isLoopback } from './loopback.ts'
import { isOriginAllowed } from './origin.ts'
import type { TokenBucket } from './rate-limit.ts'

/** Who makes a request, and what they may do. */
export interface Caller {
  readonly tenant: string
  readonly keyId: string
  readonly scopes: readonly Scope[]
  readonly quota: Quota
  /** There where the key has a limit on its requests. */
  readonly bucket?: TokenBucket | undefined
  /** It may do something with that instance only. */
  readonly instance?: string | undefined
}

/** Finds the caller of a request by its key. Throws `unauthorized`. `token` is the value of `?token=`. */
export type Authenticator = (request: Pick<IncomingMessage, 'headers' | 'url'>, token: string | undefined) => Caller

/** `admin` is every scope: whoever can make keys can make one with any scope. */
export const mayDo = (caller: Caller, scope: Scope): boolean =>
  caller.scopes.includes(scope) || caller.scopes.includes('admin')

export const requireScope = (caller: Caller, scope: Scope): void => {
  if (!mayDo(caller, scope)) throw new BrambleError('forbidden', { detail: `it needs the scope \`${scope}\`` })
}

const BEARER = /^bearer +([\x21-\x7e]{1,4096})$/i

/** What the request has for a key: the bearer of its header, or `token` where it has no such header. */
export const bearerOf = (
  { headers }: Pick<IncomingMessage, 'headers'>,
  token: string | undefined,
): string | undefined => (headers.authorization === undefined ? token : BEARER.exec(headers.authorization)?.[1])

/** The same. Throws `unauthorized` where there is none. */
export const keyTextOf = (request: Pick<IncomingMessage, 'headers'>, token: string | undefined): string => {
  const key = bearerOf(request, token)
  if (key !== undefined) return key
  throw new BrambleError('unauthorized', {
    detail:
      request.headers.authorization === undefined
        ? 'the request has no API key'
        : 'the `Authorization` header is not a bearer key',
  })
}

export const unknownKey = (): BrambleError =>
  new BrambleError('unauthorized', { detail: 'the API key is not known here' })

/** Where keys are looked up that are all in memory. */
export interface KeyFinder {
  find(key: string): Caller | undefined
}

export const keyAuthenticator =
  (keys: KeyFinder): Authenticator =>
  (request, token) => {
    const caller = keys.find(keyTextOf(request, token))
    if (!caller) throw unknownKey()
    return caller
  }

const EVERYONE: Caller = { tenant: 'default', keyId: 'none', scopes: ['admin'], quota: {} }

/**
 * No keys: for a loopback address only. The `Host` must name the loopback too, or a web page whose name was made to
 * point here (DNS rebinding) could run commands; and the page that asks, where one does, must be of a known origin.
 */
export const openAuthenticator =
  (corsOrigins: readonly string[]): Authenticator =>
  (request) => {
    const host = hostOf(request)
    if (!isLoopback(host))
      throw new BrambleError('forbidden', { detail: `without keys only loopback names are served, not \`${host}\`` })
    requireOrigin(corsOrigins, request)
    return EVERYONE
  }

/** Throws `forbidden` for a page of an origin that is neither this server's nor named. */
export const requireOrigin = (corsOrigins: readonly string[], request: Pick<IncomingMessage, 'headers'>): void => {
  if (isOriginAllowed(corsOrigins, request)) return
  throw new BrambleError('forbidden', { detail: 'pages of that `Origin` may not use this' })
}

/** From this machine, to it by a name of its own, and through no proxy that says so. */
export const isDirectLoopback = (request: IncomingMessage): boolean =>
  isLoopback(request.socket.remoteAddress ?? '') &&
  isLoopback(hostOf(request)) &&
  request.headers['x-forwarded-for'] === undefined &&
  request.headers.forwarded === undefined

const hostOf = (request: Pick<IncomingMessage, 'headers'>): string =>
  (request.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1')
