import { BrambleError, canonicalJson, type RouteClaims, routeClaimsSchema } from '@bramble/protocol'
import { utf8ToBytes } from '@noble/hashes/utils.js'
import { bytesOfBase64Url, toBase64Url } from './base64.ts'
import { bytesOfHex, toHex } from './hex.ts'
import type { Curve, Identity } from './identity.ts'
import { messageDigest } from './messages.ts'
import { verifySignature } from './verify.ts'

const PURPOSE = 'bramble/route/1'
const MAX_TOKEN_CHARS = 8192
const PREFIX = 'bramble_route_'

/** By its form: keys of a node have another one. */
export const isRouteToken = (text: string): boolean => text.startsWith(PREFIX)

/** `bramble_route_claims.signature`, both in base64url: what a node's gateway takes in place of a key, until it expires. */
export const signRouteToken = (identity: Pick<Identity, 'sign'>, claims: RouteClaims): string => {
  const payload = toBase64Url(utf8ToBytes(canonicalJson(claims)))
  return `${PREFIX}${payload}.${toBase64Url(bytesOfHex(identity.sign(messageDigest(PURPOSE, payload)), 65))}`
}

const refuse = (detail: string, cause?: unknown): never => {
  throw new BrambleError('unauthorized', { detail, cause })
}

/** What a token says, once its signature and its time are right; throws `unauthorized` else. Whom it is for is the caller's to check. */
export const readRouteToken = (token: string, publicKey: string, curve: Curve, nowMs: number): RouteClaims => {
  const isOne = isRouteToken(token) && token.length <= MAX_TOKEN_CHARS
  const [payload = '', signature = '', ...more] = isOne ? token.slice(PREFIX.length).split('.') : []
  if (payload === '' || more.length > 0 || !/^[\w-]{87}$/.test(signature))
    return refuse('the token is not one of a route')
  if (!verifySignature(messageDigest(PURPOSE, payload), toHex(bytesOfBase64Url(signature)), publicKey, curve))
    return refuse('the token of the route is not signed by this network')
  let claims: RouteClaims
  try {
    claims = routeClaimsSchema.parse(JSON.parse(new TextDecoder().decode(bytesOfBase64Url(payload))))
  } catch (cause) {
    return refuse('the token of the route has no such claims as this version knows', cause)
  }
  if (claims.expiresAtMs <= nowMs) return refuse('the token of the route has expired')
  return claims
}
