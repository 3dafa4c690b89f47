import { BrambleError, type NetworkPolicy, type SandboxId } from '@bramble/protocol'
import { formatAddress, isReserved, parseAddress } from './addresses.ts'
import { change, type Element, linkKey, ownKey, pairKey, policyElements } from './elements.ts'
import type { NetworkTool } from './network-tool.ts'
import type { NetworkLimits, SandboxNetwork } from './networks.ts'
import { canonicalName, parsePolicy, permitsAddress, permitsName, type Rules } from './policy.ts'
import type { Asker, Resolver } from './resolver.ts'
import { burstBytes, bytesPerSecond } from './ruleset.ts'
import { linkElements, type Slot, type SlotPlan } from './slot.ts'

/** How long an answer of the resolver opens an address: its time to live, within these, and some time to use it. */
const MIN_PIN_S = 60
const MAX_PIN_S = 3600
const PIN_GRACE_S = 30
/** Addresses that one sandbox learnt by name. The oldest makes room. */
const MAX_PINS = 2048

/** An address that a name led to: the name that did so last, and until when that holds (of `performance.now`). */
interface Pin {
  readonly name: string
  readonly untilMs: number
}

/** A network in use, and the resolver's view of it. */
export interface OpenNetwork extends SandboxNetwork, Asker {
  readonly slot: SlotPlan
}

export interface NetworkContext {
  readonly rules: Pick<NetworkTool, 'ask'>
  /** For what nobody waits for. */
  readonly background: Pick<NetworkTool, 'ask'>
  readonly table: string
  readonly resolverAddress: string
  readonly resolver: () => Resolver
  readonly onReleasing: (released: Promise<void>) => void
  /** The link and the namespaces may go, and the slot's number is free. */
  readonly onReleased: (network: OpenNetwork) => Promise<void>
}

export const changeRules = async (
  { rules, table }: Pick<NetworkContext, 'rules' | 'table'>,
  items: readonly string[],
): Promise<void> => {
  if (items.length > 0) await rules.ask('change', table, items.join(';'))
}

const limitItems = (link: string, { bandwidthMbit, connections }: NetworkLimits): string[] => {
  const key = linkKey(link)
  const rate = bandwidthMbit === undefined ? '' : ` r=${bytesPerSecond(bandwidthMbit)} b=${burstBytes(bandwidthMbit)}`
  return [
    ...(rate === '' ? [] : [`= upload ${key}${rate}`, `= download ${key}${rate}`]),
    ...(connections === undefined ? [] : [`= connections ${key} n=${connections}`]),
  ]
}

/** What the kernel is told of a sandbox that takes a slot: whose it is, and its policy. */
const takenItems = (slot: SlotPlan, sandbox: SandboxId, rules: Rules, limits: NetworkLimits): string[] => [
  `+ links ${ownKey(slot.link, slot.address)} c=${sandbox}`,
  ...change('+', policyElements(slot.address, rules)),
  ...limitItems(slot.link, limits),
]

/** Gives a slot to a sandbox. Of a slot that is attached to, nobody knows the namespaces: the sandbox itself holds them. */
export const openNetwork = async (
  context: NetworkContext,
  slot: Slot | SlotPlan,
  sandbox: SandboxId,
  policy: NetworkPolicy,
  limits: NetworkLimits = {},
): Promise<OpenNetwork> => {
  let rules = parsePolicy(policy)
  const address = formatAddress(slot.address)
  const pins = new Map<number, Pin>()
  let releasing: Promise<void> | undefined
  let changing: Promise<unknown> = Promise.resolve()
  let expiry: NodeJS.Timeout | undefined
  await changeRules(context, takenItems(slot, sandbox, rules, limits))

  /** One after another: each is a difference to the one before. Nothing after the release. */
  const inOrder = <T>(step: () => Promise<T>): Promise<T> => {
    if (releasing) return Promise.reject(new BrambleError('shutting_down', { detail: 'the network is released' }))
    const done = changing.then(step)
    changing = done.catch(() => {})
    return done
  }
  const pinOf = (pinned: number): Element => `pinned ${pairKey(slot.address, pinned)}`

  /** What cannot be removed stays known, for the release to remove. */
  const changeAndUnpin = async (items: readonly string[], unpinned: readonly number[]): Promise<void> => {
    await changeRules(context, [...items, ...change('-', unpinned.map(pinOf))])
    for (const pinned of unpinned) pins.delete(pinned)
  }
  /** Removes what is past its time. One timer for the next of them. */
  const expire = (): void => {
    clearTimeout(expiry)
    const next = Math.min(...Array.from(pins.values(), ({ untilMs }) => untilMs))
    if (!Number.isFinite(next)) return
    const late = async (): Promise<void> => {
      const now = performance.now()
      const old = [...pins].filter(([, { untilMs }]) => untilMs <= now).map(([pinned]) => pinned)
      await changeAndUnpin([], old).finally(expire)
    }
    expiry = setTimeout(() => void inOrder(late).catch(() => {}), Math.max(1000, next - performance.now())).unref()
  }

  const admit: Asker['admit'] = (name, addresses) =>
    inOrder(async () => {
      const admitted = new Set<number>()
      const fresh: number[] = []
      for (const { address: asked, ttlS } of addresses) {
        if (permitsAddress(rules, asked)) admitted.add(asked)
        else if (!isReserved(asked) && permitsName(rules, name)) {
          admitted.add(asked)
          const seconds = Math.min(MAX_PIN_S, Math.max(MIN_PIN_S, ttlS)) + PIN_GRACE_S
          if (!pins.delete(asked)) fresh.push(asked)
          pins.set(asked, { name, untilMs: performance.now() + seconds * 1000 })
        }
      }
      const oldest = [...pins.keys()].slice(0, Math.max(0, pins.size - MAX_PINS))
      await changeAndUnpin(change('+', fresh.map(pinOf)), oldest)
      expire()
      return admitted
    })

  /** Whether a connection that was let through before may go on. */
  const stillPermitted = (destination: number): boolean => {
    const pin = pins.get(destination)
    return permitsAddress(rules, destination) || (pin !== undefined && permitsName(rules, pin.name))
  }

  const setPolicy = async (next: NetworkPolicy): Promise<void> => {
    const before = policyElements(slot.address, rules)
    const parsed = parsePolicy(next)
    const after = policyElements(slot.address, parsed)
    const unpinned = [...pins].filter(([, { name }]) => !permitsName(parsed, name)).map(([pinned]) => pinned)
    rules = parsed
    const items = [...change('-', before.difference(after)), ...change('+', after.difference(before))]
    await changeAndUnpin(items, unpinned)
    const flows = new Set((await context.rules.ask('flows', address)).split(' '))
    const cut = [...flows].filter((text) => {
      const destination = parseAddress(text)
      return destination !== undefined && text !== context.resolverAddress && !stillPermitted(destination)
    })
    for (let at = 0; at < cut.length; at += 1024)
      await context.rules.ask('cut', address, cut.slice(at, at + 1024).join(','))
  }

  const release = async (): Promise<void> => {
    clearTimeout(expiry)
    const elements = [
      `links ${ownKey(slot.link, slot.address)}`,
      ...policyElements(slot.address, rules),
      ...Array.from(pins.keys(), pinOf),
      ...linkElements(slot.link),
    ]
    // Someone may have changed the table by hand: then each by itself, as far as it is there.
    await changeRules(context, change('-', elements)).catch(() => changeRules(context, change('~', elements)))
    await context.background.ask('cut', address, '*')
    await context.onReleased(network)
  }

  const network: OpenNetwork = {
    slot,
    sandbox,
    uidBase: slot.uidBase,
    userNamespacePath: 'userNamespacePath' in slot ? slot.userNamespacePath : '',
    networkNamespacePath: 'networkNamespacePath' in slot ? slot.networkNamespacePath : '',
    resolver: context.resolverAddress,
    address,
    permits: (name) => permitsName(rules, name),
    admit,
    setPolicy: (next) => inOrder(() => setPolicy(next)),
    resolve: async (name) => {
      const literal = parseAddress(name)
      if (literal !== undefined && stillPermitted(literal)) return [name]
      const canonical = literal === undefined ? canonicalName(name) : undefined
      const found = canonical === undefined ? [] : await context.resolver().lookUp(network, canonical)
      if (found.length > 0) return found
      throw new BrambleError('port_closed', { detail: `${name} has no address that the sandbox may reach` })
    },
    stats: async () => {
      const words = ['sent', 'received', linkKey(slot.link)]
      const [sent, received] = (await context.rules.ask('count', context.table, ...words)).split(' ')
      return { egressBytes: Number(sent), ingressBytes: Number(received) }
    },
    release: () => {
      if (releasing === undefined) {
        releasing = changing.then(release)
        context.onReleasing(releasing)
      }
      return releasing
    },
    [Symbol.asyncDispose]: () => network.release(),
  }
  return network
}
