import { isIPv4, isIPv6 } from 'node:net'

/** Whether a host name or address can only be this machine (RFC 1122 127/8, RFC 4291 ::1, RFC 6761 localhost). */
export const isLoopback = (host: string): boolean => {
  const address = host.toLowerCase().replace(/^::ffff:/, '')
  if (isIPv4(address)) return address.startsWith('127.')
  if (isIPv6(address)) return address === '::1'
  return address === 'localhost' || address.endsWith('.localhost')
}

/** A host as it stands in a URL: IPv6 in brackets. */
export const hostInUrl = (host: string): string => (isIPv6(host) ? `[${host}]` : host)
