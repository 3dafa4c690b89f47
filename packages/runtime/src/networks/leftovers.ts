import { readdir } from 'node:fs/promises'
import { type SandboxId, sandboxIdSchema } from '@bramble/protocol'
import { parseAddress } from './addresses.ts'
import type { Command } from './command.ts'
import { ADDRESS_SETS, type Element, LINK_SETS, linkKey, ownKey, PAIR_SETS, pairKey } from './elements.ts'

/** What an earlier process of the node left in the kernel. */
export interface Leftovers {
  /** Links that are there, sandboxes with them or not. */
  readonly links: Set<string>
  /** Which link belongs to a sandbox, by the rules. */
  readonly sandboxes: Map<SandboxId, { link: string; address: number }>
  /** Elements of rules, by the address or the link that they are for. */
  readonly elements: Map<number | string, Element[]>
}

type Value = string | { concat: string[] } | { elem: { val: Value; comment?: string } }
interface Listing {
  nftables: { set?: { name: string; elem?: Value[] } }[]
}

const KEYED = new Set(['links', ...LINK_SETS, ...ADDRESS_SETS, ...PAIR_SETS])

export const linksOf = async (prefix: string): Promise<Set<string>> =>
  new Set((await readdir('/sys/class/net')).filter((name) => name.startsWith(prefix)))

const partsOf = (value: Value): { parts: string[]; comment: string } => {
  if (typeof value === 'string') return { parts: [value], comment: '' }
  if ('concat' in value) return { parts: value.concat, comment: '' }
  return { ...partsOf(value.elem.val), comment: value.elem.comment ?? '' }
}

/** Reads the table of an earlier process, where there is one. */
export const findLeftovers = async (command: Command, table: string, prefix: string): Promise<Leftovers> => {
  const leftovers: Leftovers = { links: await linksOf(prefix), sandboxes: new Map(), elements: new Map() }
  const note = (of: number | string, element: Element): void => {
    leftovers.elements.set(of, [...(leftovers.elements.get(of) ?? []), element])
  }
  const text = await command('nft', ['--json', 'list', 'table', 'inet', table]).catch(() => '{"nftables":[]}')
  for (const { set } of (JSON.parse(text) as Listing).nftables)
    for (const value of set?.elem ?? []) {
      const name = set?.name ?? ''
      if (!KEYED.has(name)) continue
      const { parts, comment } = partsOf(value)
      const [first = '', second = ''] = parts
      const address = parseAddress(first)
      const other = parseAddress(second)
      if (name === 'links' && other !== undefined) {
        note(other, `links ${ownKey(first, other)}`)
        const sandbox = sandboxIdSchema.safeParse(comment)
        if (sandbox.success) leftovers.sandboxes.set(sandbox.data, { link: first, address: other })
      } else if (LINK_SETS.includes(name)) note(first, `${name} ${linkKey(first)}`)
      else if (ADDRESS_SETS.includes(name) && address !== undefined)
        note(address, `${name} ${pairKey(address, 0).slice(0, 8)}`)
      else if (PAIR_SETS.includes(name) && address !== undefined && other !== undefined)
        note(address, `${name} ${pairKey(address, other)}`)
    }
  return leftovers
}
