import { jobHasEnded } from '@bramble/protocol'
import type { Store } from '../store/store.ts'
import type { ClientHistory } from './client-history.ts'
import type { SimulatedNode } from './simulated-node.ts'
import { CONFIG, type World } from './world.ts'

interface Peace {
  readonly world: World
  readonly history: ClientHistory
  readonly store: Store
  readonly nodes: readonly SimulatedNode[]
}

/** What must hold when nothing goes wrong any more: all is done, all is given back, all is counted. */
export const checkPeace = async ({ world, history, store, nodes }: Peace): Promise<void> => {
  const { checker, loop } = world
  const fail = (message: string): void => checker.fail(message)
  const network = world.front()?.network
  if (!network) return fail('no coordinator writes in the end')
  for (const [id, tenant] of history.acknowledged) {
    const kept = await store.job(id)
    if (!kept) fail(`job ${id} was acknowledged, and is lost`)
    else if (kept.tenant !== tenant) fail(`job ${id} of ${tenant} belongs to ${kept.tenant}`)
  }
  const statuses: Record<string, number> = {}
  for (const { id, state } of checker.jobs.values()) {
    statuses[state.status] = (statuses[state.status] ?? 0) + 1
    if (!jobHasEnded(state.status))
      fail(
        `job ${id} is ${state.status} long after everything healed; it wants ${JSON.stringify(state.wanted)}, ` +
          `waits for ${JSON.stringify(state.waiting?.message)}`,
      )
  }
  for (const { id, job } of checker.open) fail(`the lease of ${id} of job ${job} was never settled`)
  checkBacktracking(world)
  checker.ledger.checkSum()
  const { total } = await store.balances()
  if (total !== 0) fail(`the ledger adds up to ${total}`)
  const asked = network.stats()
  const listed = network.nodes.list({ limit: 200 } as Parameters<typeof network.nodes.list>[0])
  await loop.run(loop.elapsedMs + 1000, () => false)
  const stats = await asked
  for (const status of ['completed', 'failed', 'cancelled', 'no_consensus'])
    if ((stats.jobs[status] ?? 0) !== (statuses[status] ?? 0))
      fail(
        `the statistics have ${stats.jobs[status] ?? 0} jobs that are ${status}, and the store ${statuses[status] ?? 0}`,
      )
  if (stats.executions.running !== 0 || stats.executions.waiting !== 0)
    fail(`nothing is left to do, and the statistics have ${JSON.stringify(stats.executions)}`)
  const byId = new Map((await listed).items.map((node) => [node.id, node]))
  for (const node of nodes) {
    const shown = byId.get(node.id)
    if (!shown || !node.isConnected) continue
    // A forger that repeats its old frames also drains again.
    if (shown.status !== 'online' && shown.status !== 'suspended' && !node.isDraining && node.temper !== 'forger')
      fail(`${node.name} is connected, and shown as ${shown.status}`)
    const isNew = shown.trust.agreements < CONFIG.newcomerAgreements && !node.isAnchor
    const slots = isNew ? Math.min(node.report.slots, CONFIG.newcomerRunning) : node.report.slots
    if (
      shown.free.cpus !== node.report.cpus ||
      shown.free.memoryMb !== node.report.memoryMb ||
      shown.free.slots !== slots
    )
      fail(`${node.name} runs nothing, and has ${JSON.stringify(shown.free)} free of ${slots} slots`)
  }
}

/** What a convicted node had decided alone was asked again. */
const checkBacktracking = ({ checker }: World): void => {
  for (const { node, entry } of checker.reputation.convicted)
    for (const { state } of checker.jobs.values()) {
      const lone = state.executions.find(({ id }) => id === state.canonical)
      if (state.verification?.decidedBy !== 'alone' || lone?.standing.node !== node || state.status !== 'completed')
        continue
      const { provisionalUntil } = state.verification
      const until = provisionalUntil === undefined ? 0 : Date.parse(provisionalUntil)
      if (until > Date.parse(entry.at))
        checker.fail(`job ${state.id} was decided alone by ${node}, which was convicted, and was not asked again`)
    }
}
