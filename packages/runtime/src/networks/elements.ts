import type { Cidr } from './addresses.ts'
import type { Rules } from './policy.ts'
import { RANGE_PREFIXES, rangeSet } from './ruleset.ts'

/** `+` add, `-` remove, both in the one transaction of a change; `=` put in place of what is there, `~` remove if it is there. */
export type Operation = '+' | '-' | '=' | '~'

/** An element of a set, as the networks program takes it: set and key. */
export type Element = `${string} ${string}`

const IFNAME_BYTES = 16

const hex = (address: number): string => address.toString(16).padStart(8, '0')

export const linkKey = (link: string): string =>
  Buffer.from(link)
    .toString('hex')
    .padEnd(IFNAME_BYTES * 2, '0')
export const pairKey = (sandbox: number, other: number): string => hex(sandbox) + hex(other)
export const ownKey = (link: string, address: number): string => linkKey(link) + hex(address)

const halves = (range: Cidr): Cidr[] =>
  range.prefix > 0
    ? [range]
    : [
        { base: 0, prefix: 1 },
        { base: 0x8000_0000, prefix: 1 },
      ]

/** What lets a sandbox through, by its rules, without what the resolver pins. */
export const policyElements = (address: number, rules: Rules): Set<Element> => {
  const elements = new Set<Element>()
  if (rules.egress) elements.add(`egress ${hex(address)}`)
  for (const named of rules.addresses) elements.add(`named ${pairKey(address, named)}`)
  if (rules.ranges.length > 0) elements.add(`ranged ${hex(address)}`)
  for (const { base, prefix } of rules.ranges.flatMap(halves))
    elements.add(`${rangeSet(prefix)} ${pairKey(address, base)}`)
  return elements
}

/** Sets whose keys begin with a sandbox's address. */
export const PAIR_SETS = ['named', 'pinned', ...RANGE_PREFIXES.map(rangeSet)]
export const ADDRESS_SETS = ['egress', 'ranged']
/** Sets by link: limits and counters, which every link has from its beginning. */
export const LINK_SETS = ['upload', 'download', 'queries', 'openings', 'connections', 'sent', 'received']

export const change = (operation: Operation, elements: Iterable<string>): string[] =>
  Array.from(elements, (element) => `${operation} ${element}`)
