import { type Cidr, formatAddress } from './addresses.ts'
import { type Element, LINK_SETS, linkKey } from './elements.ts'
import type { NetworkTool } from './network-tool.ts'
import { DEFAULT_CONNECTIONS } from './ruleset.ts'

/** First host id of the ranges of slots: above those of sandboxes without a network (`oci/sandbox.ts`). */
const FIRST_UID = 0x6000_0000
const IDS_PER_SLOT = 65_536
const UID_SLOTS = 8192
const FIRST_ADDRESS = 2

/** What belongs to slot `index` of a node, made or not. */
export interface SlotPlan {
  readonly index: number
  readonly link: string
  readonly address: number
  readonly uidBase: number
}

/** A network that is made: namespaces, link, limits and counters; no policy yet, so nothing passes. */
export interface Slot extends SlotPlan {
  readonly userNamespacePath: string
  readonly networkNamespacePath: string
}

export interface SlotOptions {
  readonly prefix: string
  readonly block: Cidr
  /** Where this node begins to count, so that the nodes of one host seldom share host ids. */
  readonly hash: number
}

export const planSlot = ({ prefix, block, hash }: SlotOptions, index: number): SlotPlan => ({
  index,
  link: `${prefix}${index}`,
  address: block.base + FIRST_ADDRESS + index,
  uidBase: FIRST_UID + ((hash + index) % UID_SLOTS) * IDS_PER_SLOT,
})

/** Limits and counters of a link. */
export const linkElements = (link: string): Element[] => LINK_SETS.map((set): Element => `${set} ${linkKey(link)}`)

/**
 * What adds them, at their defaults. The limit of connections is said each time: of one that an element has from its set,
 * kernels give back a reference to connection tracking that they never took (nft_connlimit.c), until it is off for the host.
 */
export const newLinkItems = (link: string): string[] =>
  linkElements(link).map((element) =>
    element.startsWith('connections ') ? `+ ${element} n=${DEFAULT_CONNECTIONS}` : `+ ${element}`,
  )

export const makeSlot = async (
  links: NetworkTool,
  plan: SlotPlan,
  { resolver, mtu }: { resolver: string; mtu: number },
): Promise<Slot> => {
  const words = [plan.link, resolver, formatAddress(plan.address), String(plan.uidBase), String(mtu)]
  const [user, net] = (await links.ask('make', ...words)).split(' ')
  return {
    ...plan,
    userNamespacePath: `/proc/${links.pid}/fd/${user}`,
    networkNamespacePath: `/proc/${links.pid}/fd/${net}`,
  }
}
