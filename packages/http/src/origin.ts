import type { IncomingMessage } from 'node:http'

/**
 * Whether a request comes from no page at all, from a page of this node itself, or from one of the named origins. What CORS
 * does not hold back needs it: WebSockets, forms, and requests without a body are sent by a browser for any page.
 */
export const isOriginAllowed = (origins: readonly string[], { headers }: Pick<IncomingMessage, 'headers'>): boolean => {
  const { origin, host } = headers
  if (origin === undefined || origins.includes(origin) || origins.includes('*')) return true
  return URL.canParse(origin) && host !== undefined && new URL(origin).host === hostWithoutDefaultPort(origin, host)
}

/** As in `URL.host`: a scheme's own port is left out. */
const hostWithoutDefaultPort = (origin: string, host: string): string => {
  const url = `${new URL(origin).protocol}//${host}`
  return URL.canParse(url) ? new URL(url).host : ''
}
