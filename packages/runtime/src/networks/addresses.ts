import { isIPv4 } from 'node:net'

/** An IPv4 network; an address is one of prefix 32. Addresses are numbers of 32 bits. */
export interface Cidr {
  readonly base: number
  readonly prefix: number
}

export const parseAddress = (text: string): number | undefined =>
  isIPv4(text) ? text.split('.').reduce((value, part) => value * 256 + Number(part), 0) : undefined

export const formatAddress = (address: number): string =>
  [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.')

export const maskOf = (prefix: number): number => (prefix === 0 ? 0 : (0xffff_ffff << (32 - prefix)) >>> 0)

/** `203.0.113.0/24`, or an address. Bits past the prefix are ignored, as `ip route` does. */
export const parseCidr = (text: string): Cidr | undefined => {
  const [, address = '', prefixText = '32'] = /^([^/]+)(?:\/(\d{1,2}))?$/.exec(text) ?? []
  const value = parseAddress(address)
  const prefix = Number(prefixText)
  if (value === undefined || prefix > 32) return undefined
  return { base: (value & maskOf(prefix)) >>> 0, prefix }
}

export const formatCidr = ({ base, prefix }: Cidr): string => `${formatAddress(base)}/${prefix}`

export const contains = ({ base, prefix }: Cidr, address: number): boolean => (address & maskOf(prefix)) >>> 0 === base

export const overlaps = (one: Cidr, two: Cidr): boolean =>
  one.prefix < two.prefix ? contains(one, two.base) : contains(two, one.base)

const cidr = (text: string): Cidr => {
  const parsed = parseCidr(text)
  if (!parsed) throw new Error(`${text} is no CIDR`)
  return parsed
}

/** Never routed, whoever asks: this host, loopback, link-local, multicast, reserved (RFC 6890). */
export const NEVER = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4'].map(cidr)

/** What is not the public Internet (RFC 6890), and Azure's WireServer, whose address looks as if it were. */
export const RESERVED = [
  ...NEVER,
  ...[
    ...['10.0.0.0/8', '100.64.0.0/10', '172.16.0.0/12', '192.0.0.0/24', '192.168.0.0/16', '198.18.0.0/15'],
    '168.63.129.16/32',
  ].map(cidr),
]

export const isReserved = (address: number): boolean => RESERVED.some((range) => contains(range, address))
