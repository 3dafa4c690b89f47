import { listedIn } from './request-head.ts'
import type { ResponseHead } from './response-reader.ts'

/** Of the app's own connection (RFC 9110, 7.6.1); node:http says its own. */
const DROPPED = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'te',
  'transfer-encoding',
  'upgrade',
])

/**
 * A page that came by path shares its origin with the API and with the apps of all other instances. Sandboxed, it has an
 * origin of its own, which reads nothing of theirs (CSP level 3, `sandbox`; no `allow-same-origin`).
 */
const SANDBOX =
  'sandbox allow-downloads allow-forms allow-modals allow-orientation-lock allow-pointer-lock allow-popups ' +
  'allow-presentation allow-scripts'

export interface ShownAs {
  /** `''`: by host name, where nothing is changed. */
  readonly prefix: string
  /** The `Host` of the request. */
  readonly host: string | undefined
}

/** The headers of the answer: name, value, name, value, … */
export const responseHeaders = (head: ResponseHead, { prefix, host }: ShownAs): string[] => {
  const { headers } = head
  const out: string[] = []
  let listed: Set<string> | undefined
  for (let i = 0; i < headers.length; i += 2)
    if (headers[i]?.length === 10 && headers[i]?.toLowerCase() === 'connection') listed = listedIn(headers[i + 1])
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] ?? ''
    const lower = name.toLowerCase()
    if (DROPPED.has(lower) || listed?.has(lower)) continue
    let value = headers[i + 1] ?? ''
    if (prefix !== '') {
      if (lower === 'location' || lower === 'content-location') value = prefixed(value, prefix, host)
      else if (lower === 'set-cookie') value = cookieBelow(value, prefix)
      // It would rule over the whole origin.
      else if (lower === 'service-worker-allowed' || lower === 'clear-site-data') continue
    }
    out.push(name, value)
  }
  if (prefix !== '') out.push('content-security-policy', SANDBOX)
  return out
}

/** A reference to the app's own root, as the client reaches it. Others are left as they are. */
const prefixed = (location: string, prefix: string, host: string | undefined): string => {
  if (location.startsWith('/')) return location.startsWith('//') ? location : prefix + location
  const own = `http://${host}`
  if (host === undefined || !location.startsWith(own)) return location
  const rest = location.slice(own.length)
  return rest === '' || /^[/?#]/.test(rest) ? `${own}${prefix}${rest.startsWith('/') ? '' : '/'}${rest}` : location
}

/** The cookie of an app, for the paths of that app only. */
const cookieBelow = (cookie: string, prefix: string): string => {
  const [pair = '', ...attributes] = cookie.split(';')
  let path = '/'
  const kept = attributes.filter((attribute) => {
    const [name = '', value = ''] = attribute.split('=', 2).map((part) => part.trim())
    if (/^path$/i.test(name)) path = value.startsWith('/') ? value : '/'
    return !/^(path|domain)$/i.test(name)
  })
  return [pair, ...kept, ` Path=${prefix}${path}`].join(';')
}
