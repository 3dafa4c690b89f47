import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import { formatAddress } from './addresses.ts'
import { claimBlock, releaseBlock } from './block.ts'
import { findProgram, runCommand } from './command.ts'
import { change } from './elements.ts'
import { closeHostFirewall, openHostFirewall } from './host-firewall.ts'
import { findLeftovers, linksOf } from './leftovers.ts'
import type { NetworkLimits, Networks } from './networks.ts'
import { parsePolicy } from './policy.ts'
import { openPool } from './pool.ts'
import { reopeningTool } from './reopening-tool.ts'
import { openResolver, type Resolver } from './resolver.ts'
import { ruleset } from './ruleset.ts'
import { changeRules, type NetworkContext, type OpenNetwork, openNetwork } from './sandbox-network.ts'
import { linkElements, newLinkItems, type SlotPlan } from './slot.ts'
import { parseServer, resolvConf } from './upstream.ts'

export interface NetworksOptions {
  /** Of this node: its name on the host is made from the path, and the file `networks` in it remembers the addresses. */
  readonly directory: string
  /** CIDRs to take 2,048 addresses from; the first that the host has no route into. */
  readonly ranges?: readonly string[] | undefined
  /** Made ahead. Default 4. */
  readonly readySlots?: number | undefined
  /** Networks at once. Default 1,024, at most 2,000. */
  readonly maxSlots?: number | undefined
  /** Name servers to ask, `address` or `address:port`. Default: the host's, of /etc/resolv.conf. */
  readonly nameServers?: readonly string[] | undefined
  /** Of each network whose caller does not say. */
  readonly limits?: NetworkLimits | undefined
}

/** Shared address space (RFC 6598), which providers of the host's own network use least in this part; then RFC 2544's. */
const DEFAULT_RANGES = ['100.96.0.0/12', '198.18.0.0/15']
const DEFAULT_READY_SLOTS = 4
const DEFAULT_MAX_SLOTS = 1024
const SLOTS_IN_BLOCK = 2000
/** Without a default route: Ethernet's. */
const DEFAULT_MTU = 1500
const FORWARDING = '/proc/sys/net/ipv4/ip_forward'

/** How large a packet may leave the host unbroken, by its default route. */
const uplinkMtu = async (): Promise<number> => {
  const routes = JSON.parse((await runCommand('ip', ['-4', '-json', 'route', 'show', 'default'])) || '[]')
  const device = (routes as { dev?: string }[])[0]?.dev ?? ''
  const mtu = Number(await readFile(`/sys/class/net/${device}/mtu`, 'utf8').catch(() => DEFAULT_MTU))
  return Math.min(DEFAULT_MTU, Math.max(576, mtu))
}

/** The node routes for its sandboxes. Where the host did not route before, it now does, as with any container engine. */
const enableForwarding = async (): Promise<void> => {
  if ((await readFile(FORWARDING, 'utf8')).trim() !== '1') await writeFile(FORWARDING, '1')
}

const missing = (): string | undefined => {
  if (process.platform !== 'linux') return 'not on Linux'
  if (process.getuid?.() !== 0) return 'not root'
  for (const [program, name] of [
    ['nft', 'nftables'],
    ['ip', 'iproute2'],
  ] as const)
    if (findProgram(program) === undefined)
      return `no \`${program}\` on this host: install ${name}, or run \`./bramble setup\``
  return undefined
}

const refuse = (reason: string): Networks => {
  const reject = () =>
    Promise.reject(new BrambleError('unsupported', { detail: `no networks for sandboxes: ${reason}` }))
  const close = () => Promise.resolve()
  return {
    offers: [],
    reason,
    take: reject,
    attach: reject,
    reap: () => Promise.resolve(0),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Opens the networks of a node. Where the host cannot have any, `offers` is empty and `reason` says why. */
export const openNetworks = async (options: NetworksOptions): Promise<Networks> => {
  const reason = missing()
  if (reason !== undefined) return refuse(reason)
  const undo: (() => Promise<unknown>)[] = []
  try {
    return await open(options, undo)
  } catch (error) {
    for (const step of undo.reverse()) await step().catch(() => {})
    return refuse(error instanceof BrambleError ? error.detail : String(error))
  }
}

/** `undo` gets what takes back each step that was taken, for when a later one fails. */
const open = async (options: NetworksOptions, undo: (() => Promise<unknown>)[]): Promise<Networks> => {
  const name = createHash('sha256').update(options.directory).digest('hex').slice(0, 12)
  const hash = Number.parseInt(name.slice(0, 6), 16)
  const table = `bramble_${name}`
  const prefix = `br${name.slice(0, 7)}-`
  const maxSlots = Math.min(SLOTS_IN_BLOCK, options.maxSlots ?? DEFAULT_MAX_SLOTS)
  const servers = options.nameServers?.map(parseServer).filter((server) => server !== undefined)

  const rules = reopeningTool()
  const links = reopeningTool()
  undo.push(rules.close, links.close)
  await enableForwarding()
  const leftovers = await findLeftovers(runCommand, table, prefix)
  // Those that were ready when the node died, and that the kernel is about to remove, since nobody holds them.
  const owned = new Set(Array.from(leftovers.sandboxes.values(), ({ link }) => link))
  for (const link of leftovers.links.difference(owned)) {
    await links.ask('remove', link)
    leftovers.links.delete(link)
  }
  const block = await claimBlock({
    command: runCommand,
    stateFile: join(options.directory, 'networks'),
    ranges: options.ranges ?? DEFAULT_RANGES,
    hash,
    prefix,
  })
  undo.push(async () => leftovers.links.size > 0 || (await releaseBlock(runCommand, block)))
  const resolverAddress = formatAddress(block.base + 1)
  const pool = openPool({
    links,
    onMade: (slot) => changeRules(context, newLinkItems(slot.link)),
    onDiscarded: (slot) => changeRules(context, change('-', linkElements(slot.link))),
    slots: { prefix, block, hash },
    resolver: resolverAddress,
    mtu: await uplinkMtu(),
    readySlots: options.readySlots ?? DEFAULT_READY_SLOTS,
    maxSlots,
    taken: [...leftovers.links],
  })

  const taken = new Map<string, OpenNetwork>()
  const releases = new Set<Promise<void>>()
  let resolver: Resolver | undefined
  const context: NetworkContext = {
    rules,
    background: links,
    table,
    resolverAddress,
    resolver: () => {
      if (!resolver) throw new BrambleError('shutting_down', { detail: 'the networks are closed' })
      return resolver
    },
    onReleasing: (released) => {
      const settled = released
        .catch(() => {})
        .finally(() => {
          releases.delete(settled)
        })
      releases.add(settled)
    },
    onReleased: async ({ slot, address }) => {
      taken.delete(address)
      await pool.giveBack(slot)
    },
  }
  // The resolver's address is the host's own only while there is a link.
  const first = await pool.makeFirst()
  undo.push(() => links.ask('remove', first.link))
  resolver = await openResolver({
    address: resolverAddress,
    servers: servers ? () => Promise.resolve(servers) : resolvConf(),
    askerAt: (address) => taken.get(address),
  })
  const text = ruleset({ table, prefix, block, udpPort: resolver.udpPort, tcpPort: resolver.tcpPort })
  undo.push(async () => await resolver?.[Symbol.asyncDispose]())
  await runCommand('nft', ['-f', '-'], text).catch(() =>
    // Sets of another version of this program: without their elements, nothing passes until sandboxes are attached to.
    runCommand('nft', ['-f', '-'], `table inet ${table} {\n}\ndelete table inet ${table}\n${text}`),
  )
  undo.push(() => runCommand('nft', ['delete', 'table', 'inet', table]))
  await context.rules.ask('flows', resolverAddress)
  await openHostFirewall(runCommand, prefix)
  await pool.start(first)

  const opened = async (slot: SlotPlan, ...[sandbox, policy, limits]: Parameters<Networks['take']>) => {
    const network = await openNetwork(context, slot, sandbox, policy, { ...options.limits, ...limits })
    taken.set(network.address, network)
    return network
  }
  const purge = (of: number | string): Promise<void> =>
    changeRules(context, change('~', leftovers.elements.get(of) ?? [])).then(() => void leftovers.elements.delete(of))

  const close = async (): Promise<void> => {
    await Promise.all(releases)
    await pool.close()
    await resolver?.[Symbol.asyncDispose]()
    const kept = leftovers.links.intersection(await linksOf(prefix))
    if (taken.size === 0 && kept.size === 0) {
      await runCommand('nft', ['delete', 'table', 'inet', table]).catch(() => {})
      await closeHostFirewall(runCommand, prefix)
      await releaseBlock(runCommand, block)
    }
    await Promise.all([rules.close(), links.close()])
  }
  let closing: Promise<void> | undefined
  const closeOnce = (): Promise<void> => {
    closing ??= close()
    return closing
  }
  return {
    offers: ['egress', 'allow'],
    take: async (sandbox, policy, limits) => {
      parsePolicy(policy)
      const slot = await pool.take()
      try {
        return await opened(slot, sandbox, policy, limits)
      } catch (error) {
        await pool.giveBack(slot).catch(() => {})
        throw error
      }
    },
    attach: async (sandbox, policy, limits) => {
      const own = [...taken.values()].find((network) => network.sandbox === sandbox)
      if (own !== undefined) {
        await own.setPolicy(policy)
        return own
      }
      const found = leftovers.sandboxes.get(sandbox)
      if (found === undefined || !leftovers.links.has(found.link))
        throw new BrambleError('not_found', { detail: `there is no network of ${sandbox}` })
      await purge(found.address)
      const network = await opened(pool.planOf(found.link), sandbox, policy, limits)
      leftovers.links.delete(found.link)
      leftovers.elements.delete(found.link)
      leftovers.sandboxes.delete(sandbox)
      return network
    },
    reap: async (keep) => {
      const kept = new Set<string | number>()
      for (const [sandbox, { link, address }] of leftovers.sandboxes) if (keep.has(sandbox)) kept.add(link).add(address)
      let removed = 0
      for (const link of leftovers.links) {
        if (kept.has(link)) continue
        await pool.giveBack(pool.planOf(link))
        leftovers.links.delete(link)
        removed++
      }
      for (const of of leftovers.elements.keys()) if (!kept.has(of)) await purge(of)
      return removed
    },
    close: closeOnce,
    [Symbol.asyncDispose]: closeOnce,
  }
}
