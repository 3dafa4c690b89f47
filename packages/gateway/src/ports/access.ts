import type { Exposure, Instances } from '@bramble/engine'
import { type Authenticator, type Caller, isOriginAllowed, requireScope } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import type { KeyStore } from '../key-store.ts'
import type { RouteTokenFinder } from '../route-tokens.ts'
import type { PortAddress } from './address.ts'
import type { PortRequest } from './plain-request.ts'
import type { Signatures, Signed } from './signatures.ts'

/** Who may reach a port, and what of the request the app must not see. */
export interface Access {
  readonly exposure: Exposure
  /** The request target without what was ours in it. */
  readonly target: string
  /** The `Authorization` header holds an API key. */
  readonly hidesAuthorization: boolean
  /** By a signature in the URL: what a browser is to keep for the requests that follow. */
  readonly signed?: Signed
}

export interface AccessRules {
  readonly instances: Pick<Instances, 'findExposed'>
  readonly keys: Pick<KeyStore, 'find'>
  /** There where the node is of a network. */
  readonly routeTokens?: RouteTokenFinder | undefined
  readonly signatures: Signatures
  /** There where the node has no keys: it lets in who may do everything else too. */
  readonly open?: Authenticator | undefined
}

export const COOKIE = 'bramble_port'
export const SIGNATURE = 'bramble_signature'
export const EXPIRES = 'bramble_expires'

/** What an API key looks like, or the token of a route: no such text ever reaches a sandbox, whether the key is known here or not. */
const KEY = /^bramble_[A-Za-z0-9_.-]{20,}$/
const BEARER_KEY = /^bearer +(bramble_[A-Za-z0-9_.-]{20,})$/i
const COOKIE_VALUE = /(?:^|; *)bramble_port=(\d{1,15})\.([A-Za-z0-9_-]{43})(?=;|$)/g

/**
 * Lets a request through to a port, or throws: `unauthorized`, `forbidden`, and `not_found` to those who may know. Where
 * several tenants' instances have the name, a signature and a key say whose is meant; else the oldest public one is.
 */
export const admit = (rules: AccessRules, request: PortRequest, address: PortAddress): Access => {
  const { headers } = request
  const candidates = rules.instances.findExposed(address.ref, address.port)
  const question = address.target.indexOf('?')
  const query = question < 0 ? undefined : takeOurs(address.target, question)
  const bearer = headers.authorization === undefined ? undefined : BEARER_KEY.exec(headers.authorization)?.[1]
  const shown = { target: query?.target ?? address.target, hidesAuthorization: bearer !== undefined }
  const [only] = candidates
  if (only?.visibility === 'public' && candidates.length === 1) return { ...shown, exposure: only }

  const signed = query?.signed
  const bySignature = signed && candidates.find((exposure) => rules.signatures.verify(exposure, signed))
  if (bySignature) return { ...shown, exposure: bySignature, signed }
  const byCookie = fromCookie(rules, candidates, headers.cookie)
  if (byCookie) return { ...shown, exposure: byCookie }
  const caller = callerOf(rules, request, bearer ?? query?.key)
  const own = caller && candidates.find((exposure) => isOwn(exposure, caller))
  if (caller && own) {
    requireScope(caller, 'execute')
    return { ...shown, exposure: own }
  }
  const open = candidates.find(({ visibility }) => visibility === 'public')
  if (open) return { ...shown, exposure: open }
  if (signed)
    throw new BrambleError('unauthorized', { detail: 'the signature of the URL is not valid, or has expired' })
  if (!caller) throw new BrambleError('unauthorized', { detail: WHAT_LETS_IN })
  throw new BrambleError('not_found', {
    detail: `port ${address.port} of \`${address.ref}\` is not exposed: ${HOW_TO_EXPOSE}`,
  })
}

const WHAT_LETS_IN =
  'a private port takes an API key of its tenant, or a signed URL (`bramble expose <instance> <port> --signed 1h`)'
const HOW_TO_EXPOSE = '`POST …/ports` (`bramble expose`) does'

interface Ours {
  readonly target: string
  readonly signed: Signed | undefined
  readonly key: string | undefined
}

/** Takes our parameters out of a query; the others stay as they are, in their order. */
const takeOurs = (target: string, question: number): Ours | undefined => {
  const text = target.slice(question + 1)
  if (!text.includes('bramble_')) return undefined
  let signature: string | undefined
  let expires: string | undefined
  let key: string | undefined
  const rest: string[] = []
  for (const pair of text.split('&')) {
    const at = pair.indexOf('=')
    const name = at < 0 ? pair : pair.slice(0, at)
    const value = at < 0 ? '' : pair.slice(at + 1)
    if (name === SIGNATURE) signature = value
    else if (name === EXPIRES) expires = value
    else if (name === 'token' && KEY.test(value)) key = value
    else rest.push(pair)
  }
  const path = target.slice(0, question)
  return {
    target: rest.length === 0 ? path : `${path}?${rest.join('&')}`,
    signed: signature !== undefined && expires !== undefined ? { signature, expires } : undefined,
    key,
  }
}

/** Cookies of the same name for other paths may come along: each is tried. */
const fromCookie = (
  { signatures }: AccessRules,
  candidates: readonly Exposure[],
  cookie: string | undefined,
): Exposure | undefined => {
  if (cookie === undefined || !cookie.includes(COOKIE)) return undefined
  for (const [, expires = '', signature = ''] of cookie.matchAll(COOKIE_VALUE)) {
    const exposure = candidates.find((candidate) => signatures.verify(candidate, { signature, expires }))
    if (exposure) return exposure
  }
  return undefined
}

const isOwn = ({ tenant, instanceId }: Exposure, caller: Caller): boolean =>
  tenant === caller.tenant && (caller.instance === undefined || caller.instance === instanceId)

const callerOf = (
  { keys, routeTokens, open }: AccessRules,
  request: PortRequest,
  key: string | undefined,
): Caller | undefined => {
  const ofNetwork = key === undefined ? undefined : routeTokens?.find(key)
  if (ofNetwork) return ofNetwork
  // A page of another origin must not act where being on this machine is all that is asked for.
  if (open) return isOriginAllowed([], request) ? open(request, undefined) : undefined
  if (key === undefined) return undefined
  const caller = keys.find(key)
  if (!caller) throw new BrambleError('unauthorized', { detail: 'the API key is not known here' })
  return caller
}
