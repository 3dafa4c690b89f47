import type { BrambleError, Route } from '@bramble/protocol'

/** Where a node is that may change: its URL, and the token that it takes. */
export interface RouteSource {
  /** The present one; asked for where none is known, or its token is about to expire. */
  current(): Promise<Pick<Route, 'url' | 'token'>>
  /** A request there failed. True: the node, or the token, is not the right one any more; the next request asks again. */
  failed(error: BrambleError): boolean
}

/** What says that it is worth to ask where to go. */
const ELSEWHERE = new Set(['connection_failed', 'no_node', 'shutting_down', 'unauthorized'])
/** A token is renewed so long before it expires. */
const MARGIN_MS = 30_000

/** Keeps the route that `ask` gives for as long as it is good. */
export const routeSource = (ask: () => Promise<Route>): RouteSource => {
  let known: { readonly route: Promise<Route>; untilMs: number } | undefined
  const askAgain = (): Promise<Route> => {
    const asked = { route: ask(), untilMs: Number.POSITIVE_INFINITY }
    known = asked
    asked.route.then(
      ({ expiresAt }) => {
        // A clock that is off renews sooner or later than it should: then the node says that the token has expired.
        asked.untilMs = Date.parse(expiresAt) - MARGIN_MS
      },
      () => {
        if (known === asked) known = undefined
      },
    )
    return asked.route
  }
  return {
    current: () => (known && Date.now() < known.untilMs ? known.route : askAgain()),
    failed: ({ code }) => {
      if (!ELSEWHERE.has(code)) return false
      known = undefined
      return true
    },
  }
}
