import { jobHasEnded } from '@bramble/protocol'
import { memoryStore } from '../store/memory-store.ts'
import type { Batch } from '../store/store.ts'
import { Checker } from './checker.ts'
import { ClientHistory } from './client-history.ts'
import { openCoordinators } from './coordinators.ts'
import { EventLoop } from './event-loop.ts'
import { planFaults } from './faults.ts'
import { checkPeace } from './final-check.ts'
import { Gossip } from './gossip.ts'
import { between, type Limits, scenarioOf, streamOf } from './scenario.ts'
import { SimulatedNode } from './simulated-node.ts'
import { startTenant } from './tenant.ts'
import { startUsers } from './users.ts'
import { CONFIG, type World } from './world.ts'

export interface Outcome {
  readonly seed: number
  readonly violations: readonly string[]
  readonly steps: number
  readonly jobs: number
  readonly executions: number
  readonly statuses: Readonly<Record<string, number>>
  readonly trace: readonly string[]
}

export interface SimulateOptions extends Limits {
  /** Keeps what happened, line by line. */
  readonly trace?: boolean
}

/** After the storm, jobs have so long to end. */
const PEACE_MS = 150_000
/** Nodes that join then: enough for any job to be decided by. */
const HELPERS = 7

/** One world, from one number: the same number and the same code give the same world, step by step. */
export const simulate = async (seed: number, options: SimulateOptions = {}): Promise<Outcome> => {
  const loop = new EventLoop()
  const scenario = scenarioOf(seed, options)
  const keys: World['keys'] = new Map()
  const trace: string[] = []
  const log = (line: () => string): void => {
    if (options.trace) trace.push(`${String(loop.elapsedMs).padStart(7)} ${line()}`)
  }
  const checker = new Checker(loop, keys)
  const history = new ClientHistory(checker)
  const store = memoryStore({
    now: () => loop.now,
    onAppend: (when, batch) => {
      if (when === 'before') return
      checker.written(batch as Batch & { epoch: number })
      log(() => `written: ${describe(batch)}`)
    },
  })
  const world: World = {
    ...{ loop, scenario, checker, keys, log, config: CONFIG, gossip: new Gossip() },
    front: () => coordinators.front(),
  }
  const coordinators = openCoordinators(world, store)
  const tokens = new Map<string, string>()
  const random = streamOf(seed, 'world')
  const hasAnchor = random() < 0.7

  const invite = (owner: string, anchor: boolean): void => {
    const network = coordinators.front()?.network
    const again = (): void => {
      if (!tokens.has(owner)) invite(owner, anchor)
    }
    loop.after(network ? 3000 : 100, again)
    network?.nodes.invite({ owner, anchor, labels: {}, ttlMs: 86_400_000, maxNodes: 50 }).then(
      ({ token }) => tokens.set(owner, token),
      () => {},
    )
  }
  const tokenOf = (anchor: boolean) => (owner: string) => {
    if (!asked.has(owner)) invite(owner, anchor)
    asked.add(owner)
    return tokens.get(owner)
  }
  const asked = new Set<string>()

  const nodes = scenario.tempers.map((temper, index) => {
    const isFirst = index < 3
    const ownerIndex = index < scenario.owners ? index : between(random, 0, scenario.owners - 1)
    const near = !isFirst && random() < 0.15 ? index - 1 : index
    const anchor = ownerIndex === 0 && hasAnchor
    return new SimulatedNode(world, {
      ...{ index, temper, anchor, token: tokenOf(anchor), owner: `owner-${ownerIndex}` },
      machine: `machine-${near}`,
      subnet: `10.0.${!isFirst && random() < 0.15 ? index - 1 : index}.0/24`,
    })
  })

  coordinators.start()
  for (const node of nodes) loop.after(between(random, 0, 1500), () => node.start())
  for (let index = 0; index < scenario.tenants; index++) startTenant(world, history, index)
  startUsers(world, nodes)
  planFaults(world, nodes, coordinators)
  const watch = (): void => {
    const isThere = (id: string): boolean => nodes.some((node) => node.id === id && node.isConnected && !node.isSlow)
    if (coordinators.front()) checker.checkLeases(isThere)
    loop.after(1000, watch)
  }
  watch()

  const isBroken = (): boolean => checker.violations.length > 0
  await loop.run(scenario.stormMs, isBroken)

  log(() => 'the storm is over')
  coordinators.heal()
  for (const node of nodes) {
    if (!node.reaches.up || !node.reaches.down) node.trouble()
    node.reaches.up = true
    node.reaches.down = true
    node.start()
  }
  const helpers = Array.from({ length: HELPERS }, (_, number) => {
    const index = 100 + number
    return new SimulatedNode(world, {
      ...{ index, temper: 'honest', anchor: true, token: tokenOf(true), owner: `helper-${number}` },
      ...{ machine: `machine-${index}`, subnet: `10.1.${index}.0/24` },
    })
  })
  for (const node of helpers) node.start()
  const allEnded = (): boolean =>
    [...history.acknowledged.keys()].every((id) => jobHasEnded(checker.jobs.get(id)?.state.status ?? 'pending')) &&
    [...checker.jobs.values()].every(({ state }) => jobHasEnded(state.status))
  const quietMs = scenario.stormMs + 15_000
  await loop.run(scenario.stormMs + PEACE_MS, () => isBroken() || (loop.elapsedMs > quietMs && allEnded()))
  // What was said last is still on its way.
  if (!isBroken()) await loop.run(loop.elapsedMs + CONFIG.leaseMs + 2000, isBroken)
  if (!isBroken()) await checkPeace({ world, history, store, nodes: [...nodes, ...helpers] })

  const statuses: Record<string, number> = {}
  for (const { state } of checker.jobs.values()) statuses[state.status] = (statuses[state.status] ?? 0) + 1
  return {
    ...{ seed, violations: checker.violations, steps: loop.steps, trace, statuses },
    ...{ jobs: checker.jobs.size, executions: checker.executions.size },
  }
}

const shorten = (id: string): string => id.slice(-6)

const describe = (batch: Batch): string => {
  const records = (batch.log as { t: string; j?: string; e?: { type: string; execution?: string } }[]).map(
    ({ t, j, e }) => (t === 'j' ? `${e?.type} ${shorten(e?.execution ?? '')} of ${shorten(j ?? '')}` : t),
  )
  const jobs = batch.jobs.map(({ state }) => `${shorten(state.id)} is ${state.status}`)
  const reputation = batch.reputation.map(({ node, kind }) => `${node.slice(0, 8)} ${kind}`)
  return [
    `#${batch.seq}`,
    ...records,
    ...jobs,
    ...reputation,
    ...(batch.checkpoint ? [`checkpoint ${batch.checkpoint}`] : []),
  ].join(', ')
}
