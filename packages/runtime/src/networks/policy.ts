import { domainToASCII } from 'node:url'
import { BrambleError, type NetworkPolicy } from '@bramble/protocol'
import { type Cidr, contains, isReserved, NEVER, overlaps, parseCidr } from './addresses.ts'

/** A policy, parsed. */
export interface Rules {
  readonly egress: boolean
  /** Named exactly: these alone may be of the host, or link-local. */
  readonly addresses: readonly number[]
  readonly ranges: readonly Cidr[]
  /** In lower case; `.example.org` stands for what is below it. */
  readonly names: ReadonlySet<string>
}

const MAX_NAME_CHARS = 253
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/
/** Link-local is in `NEVER`, and may be named exactly. */
const LINK_LOCAL = parseCidr('169.254.0.0/16') as Cidr

const refuse = (entry: string, why: string): never => {
  throw new BrambleError('invalid_request', { detail: `network: ${JSON.stringify(entry)} ${why}` })
}

/** A host name as it is compared: lower case, ASCII (IDNA), no dot at its end. Undefined where it is none. */
export const canonicalName = (text: string): string | undefined => {
  const trimmed = text.replace(/\.$/, '').toLowerCase()
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what is ASCII already is not for IDNA.
  const name = /^[\x00-\x7f]*$/.test(trimmed) ? trimmed : domainToASCII(trimmed)
  return name.length <= MAX_NAME_CHARS && name.split('.').every((label) => LABEL.test(label)) ? name : undefined
}

const parseName = (entry: string): string | undefined => {
  const below = entry.startsWith('*.')
  const name = canonicalName(below ? entry.slice(2) : entry)
  // The last label of a host name is never all digits (RFC 3696): what is, is a wrong address.
  if (name === undefined || /(^|\.)\d+$/.test(name)) return undefined
  return below ? `.${name}` : name
}

/** Rejects with `invalid_request` what no network can be made to allow. */
export const parsePolicy = (policy: NetworkPolicy): Rules => {
  if (typeof policy === 'string') return { egress: policy === 'egress', addresses: [], ranges: [], names: new Set() }
  const addresses: number[] = []
  const ranges: Cidr[] = []
  const names = new Set<string>()
  for (const entry of policy.allow) {
    if (entry.includes(':')) refuse(entry, 'is an IPv6 address: sandboxes have IPv4 only')
    const cidr = parseCidr(entry)
    if (cidr !== undefined) {
      const exactLinkLocal = cidr.prefix === 32 && contains(LINK_LOCAL, cidr.base)
      if (!exactLinkLocal && NEVER.some((never) => never.prefix <= cidr.prefix && overlaps(never, cidr)))
        refuse(entry, 'cannot be reached from a sandbox: it is loopback, link-local, multicast or reserved')
      if (cidr.prefix === 32) addresses.push(cidr.base)
      else ranges.push(cidr)
      continue
    }
    const name = parseName(entry)
    if (name === undefined) refuse(entry, 'is no host name, no address and no CIDR')
    else names.add(name)
  }
  return { egress: false, addresses, ranges, names }
}

/** Whether the sandbox may ask for `name`, which is canonical. */
export const permitsName = (rules: Rules, name: string): boolean => {
  if (rules.egress || rules.names.has(name)) return true
  for (let dot = name.indexOf('.'); dot !== -1; dot = name.indexOf('.', dot + 1))
    if (rules.names.has(name.slice(dot))) return true
  return false
}

/** Whether the rules let an address through by itself, whatever name it has. */
export const permitsAddress = (rules: Rules, address: number): boolean => {
  if (rules.addresses.includes(address)) return true
  if (NEVER.some((never) => contains(never, address))) return false
  return rules.ranges.some((range) => contains(range, address)) || (rules.egress && !isReserved(address))
}
