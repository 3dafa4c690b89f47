import type { IncomingMessage } from 'node:http'
import { BlockList, isIP, isIPv6 } from 'node:net'
import { BrambleError } from '@bramble/protocol'

/** The address that a request comes from, whatever stands before this coordinator. */
export type AddressOf = (request: Pick<IncomingMessage, 'headers' | 'socket'>) => string

const plain = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '')

const blockListOf = (networks: readonly string[]): BlockList => {
  const list = new BlockList()
  for (const network of networks) {
    const [address = '', bits] = network.split('/')
    const family = isIPv6(address) ? 'ipv6' : 'ipv4'
    const most = family === 'ipv6' ? 128 : 32
    const prefix = bits === undefined ? most : Number(bits)
    if (isIP(address) === 0 || !Number.isInteger(prefix) || prefix < 0 || prefix > most)
      throw new BrambleError('invalid_request', { detail: `\`${network}\` is not an address or a network of them` })
    list.addSubnet(address, prefix, family)
  }
  return list
}

/**
 * Of a proxy that is trusted, the address it names last in `X-Forwarded-For` is the client's, and so on from right to left: what
 * stands further left anybody can have written. `trusted`: addresses and networks (`10.0.0.0/8`).
 */
export const addressOf = (trusted: readonly string[]): AddressOf => {
  const proxies = blockListOf(trusted)
  const isProxy = (address: string): boolean => proxies.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
  return ({ headers, socket }) => {
    let address = plain(socket.remoteAddress ?? '0.0.0.0')
    if (trusted.length === 0) return address
    const forwarded = headers['x-forwarded-for']
    const named = (Array.isArray(forwarded) ? forwarded.join(',') : (forwarded ?? '')).split(',').slice(-16)
    while (isProxy(address)) {
      const next = plain((named.pop() ?? '').trim())
      if (isIP(next) === 0) break
      address = next
    }
    return address
  }
}

/** The first `bits` of an IPv6 address, as 16-bit groups. */
const groupsOf = (address: string, bits: number): string => {
  const [head = '', tail] = address.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length)
  const groups = [...left, ...new Array<string>(zeros).fill('0'), ...right].slice(0, bits / 16)
  return groups.map((group) => Number.parseInt(group, 16).toString(16)).join(':')
}

/** What nodes of one place share: /24 of IPv4, /48 of IPv6. */
export const subnetOf = (address: string): string =>
  isIPv6(address) ? `${groupsOf(address, 48)}::/48` : `${address.split('.').slice(0, 3).join('.')}.0/24`

/** What one client can have many of: an IPv4 address, or a /64 of IPv6. */
export const clientOf = (address: string): string => (isIPv6(address) ? `${groupsOf(address, 64)}::/64` : address)
