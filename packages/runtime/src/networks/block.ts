import { readFile, writeFile } from 'node:fs/promises'
import { BrambleError } from '@bramble/protocol'
import { type Cidr, formatCidr, overlaps, parseCidr } from './addresses.ts'
import type { Command } from './command.ts'

/** Addresses of a node: its resolver, and one of each slot. */
export const BLOCK_PREFIX = 21
/** Of our routes in `ip route`: no routing daemon has it (rt_protos of iproute2). */
const ROUTE_PROTOCOL = '213'
/** Two nodes that ask for the same block have the same route in mind, and the kernel gives it to one. */
const METRIC = '1024'

export interface BlockOptions {
  readonly command: Command
  /** Remembers the block, so that sandboxes that live on keep theirs. */
  readonly stateFile: string
  readonly ranges: readonly string[]
  /** Where in a range this node begins to look. */
  readonly hash: number
  /** Of this node's links. */
  readonly prefix: string
}

interface Route {
  dst?: string
  dev?: string
  type?: string
}

const parseRange = (text: string): Cidr => {
  const range = parseCidr(text)
  if (!range || range.prefix > BLOCK_PREFIX)
    throw new BrambleError('invalid_request', { detail: `${text} is no range of addresses for networks of sandboxes` })
  return range
}

/** What the host has routes to, but for the default route and the links of this node. */
const routed = async ({ command, prefix }: BlockOptions): Promise<Cidr[]> => {
  const routes = JSON.parse((await command('ip', ['-4', '-json', 'route', 'show', 'table', 'all'])) || '[]') as Route[]
  return (
    routes
      .filter((route) => !route.dev?.startsWith(prefix) && route.type !== 'broadcast')
      .flatMap((route) => parseCidr(route.dst ?? '') ?? [])
      // Wider ones are default routes by another name (a VPN's 0.0.0.0/1).
      .filter((cidr) => cidr.prefix >= 8)
  )
}

const saved = async ({ stateFile }: BlockOptions): Promise<Cidr | undefined> => {
  const text = await readFile(stateFile, 'utf8').catch(() => '')
  return parseCidr(text.trim())
}

/** Packets to addresses of the block that no link has go nowhere. It is also what keeps the block from other nodes. */
const routeOf = (block: Cidr): string[] => ['blackhole', formatCidr(block), 'metric', METRIC, 'proto', ROUTE_PROTOCOL]

const claim = async (options: BlockOptions, block: Cidr): Promise<boolean> => {
  // Before it is taken: what a crash between the two leaves is then still known to be ours.
  await writeFile(options.stateFile, `${formatCidr(block)}\n`, { mode: 0o600 })
  return await options.command('ip', ['-4', 'route', 'add', ...routeOf(block)]).then(
    () => true,
    () => false,
  )
}

/** Takes a block of addresses that nothing on the host uses, the one it had before where it still has it. */
export const claimBlock = async (options: BlockOptions): Promise<Cidr> => {
  const before = await saved(options)
  const used = await routed(options)
  const [claimed, ...others] = before ? used.filter((cidr) => overlaps(cidr, before)) : []
  if (before && claimed && others.length === 0 && formatCidr(claimed) === formatCidr(before)) return before
  for (const range of [...(before ? [before] : []), ...options.ranges.map(parseRange)]) {
    const count = 2 ** (BLOCK_PREFIX - range.prefix)
    for (let tried = 0; tried < count; tried++) {
      const base = range.base + ((options.hash + tried) % count) * 2 ** (32 - BLOCK_PREFIX)
      const block = { base, prefix: BLOCK_PREFIX }
      if (!used.some((cidr) => overlaps(cidr, block)) && (await claim(options, block))) return block
    }
  }
  throw new BrambleError('unsupported', {
    detail: `the host has routes to all of ${options.ranges.join(', ')}: name another range of addresses`,
  })
}

export const releaseBlock = async (command: Command, block: Cidr): Promise<void> => {
  await command('ip', ['-4', 'route', 'del', ...routeOf(block)]).catch(() => {})
}
