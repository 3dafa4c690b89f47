import { type Authenticator, bearerOf, type Caller } from '@bramble/http'
import type { Curve } from '@bramble/identity'
import { BrambleError, type NodeId, type RouteClaims, type Scope, tenantOnNode } from '@bramble/protocol'

/** Tokens of the network that this node is of: what it signed for this node is as good as a key, for as long as it says. */
export interface RouteTokens {
  readonly curve: Curve
  /** Whom this node joined, and as whom; undefined while it has not. */
  joined(): { readonly network: string; readonly publicKey: string; readonly node: NodeId } | undefined
  /** Milliseconds since 1970, as the network counts them. */
  now(): number
  /** Whether what a token is for is here. Asked for each request. */
  allows(claims: RouteClaims): boolean
}

/** Finds callers by tokens of routes. */
export interface RouteTokenFinder {
  /** Undefined for what is no such token. Throws `unauthorized`, or `no_node` where what it is for is not here any more. */
  find(text: string): Caller | undefined
}

interface Known {
  readonly claims: RouteClaims
  readonly caller: Caller
  /** Another network's are as none. */
  readonly publicKey: string
}

/** Tokens whose signature was verified, so that a request costs none. About 2 KiB each. */
const MAX_KNOWN = 10_000
const KEY_ID = 'network'
const SCOPES: readonly Scope[] = ['execute', 'read']

const refuse = (detail: string): never => {
  throw new BrambleError('unauthorized', { detail })
}

export const openRouteTokens = async (tokens: RouteTokens): Promise<RouteTokenFinder> => {
  // Most nodes are of no network: they need not load it.
  const { isRouteToken, readRouteToken } = await import('@bramble/identity')
  const known = new Map<string, Known>()

  const verify = (text: string): Known => {
    const joined = tokens.joined()
    if (!joined) return refuse('this node is of no network: it takes no tokens of routes')
    const { network, publicKey, node } = joined
    const claims = readRouteToken(text, publicKey, tokens.curve, tokens.now())
    if (claims.network !== network) return refuse('the token is of another network')
    if (claims.node !== node) return refuse('the token is for another node')
    const caller: Caller = {
      tenant: tenantOnNode(network, claims.tenant),
      keyId: KEY_ID,
      // Whatever a network signs, its clients do not administer this node.
      scopes: SCOPES.filter((scope) => claims.scopes.includes(scope)),
      quota: {},
      ...(claims.instance !== undefined && { instance: claims.instance }),
    }
    return { claims, caller, publicKey }
  }
  const keep = (text: string, one: Known): void => {
    known.set(text, one)
    if (known.size <= MAX_KNOWN) return
    const [oldest] = known.keys()
    if (oldest !== undefined) known.delete(oldest)
  }

  return {
    find: (text) => {
      if (!isRouteToken(text)) return undefined
      let one = known.get(text)
      if (!one || one.publicKey !== tokens.joined()?.publicKey) {
        one = verify(text)
        keep(text, one)
      }
      if (one.claims.expiresAtMs <= tokens.now()) {
        known.delete(text)
        return refuse('the token of the route has expired')
      }
      if (!tokens.allows(one.claims))
        throw new BrambleError('no_node', { detail: 'the instance is not here any more: ask for its route again' })
      return one.caller
    },
  }
}

/** Of those who have a token, the network says who they are; of others, `otherwise` does. */
export const withRouteTokens =
  (finder: RouteTokenFinder, otherwise: Authenticator): Authenticator =>
  (request, token) => {
    const text = bearerOf(request, token)
    const caller = text === undefined ? undefined : finder.find(text)
    if (!caller) return otherwise(request, token)
    if (caller.instance !== undefined) requireInstance(caller.instance, request.url)
    return caller
  }

/** A token of an instance is for what is below that instance, by its id. */
const requireInstance = (instance: string, url = ''): void => {
  const [, ref] = /^\/api\/v1\/(?:instances|containers)\/([^/?]+)(?:[/?]|$)/.exec(url) ?? []
  if (ref !== instance)
    throw new BrambleError('forbidden', { detail: `the token is for the instance ${instance} alone, by its id` })
}
