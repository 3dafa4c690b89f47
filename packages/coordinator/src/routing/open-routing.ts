import { type Identity, signRouteToken } from '@bramble/identity'
import { BrambleError, type NodeId, type RouteClaims } from '@bramble/protocol'
import type { Network, Route, RouteCaller } from '../network/network.ts'
import type { NodeTable } from '../placement/placement.ts'
import type { Document } from '../store/store.ts'
import { openEpochs } from './epochs.ts'
import { type InstanceContext, openTurns } from './instance-context.ts'
import { type InstanceRecord, openInstanceRecords, recordView } from './instance-records.ts'
import { keepInstances } from './keep-instances.ts'
import { DEFAULT_ROUTING, type RoutingLimits } from './limits.ts'
import { notThere, snapshotInstance } from './move-instance.ts'
import { watchNodes } from './node-watch.ts'
import { openUserSessions } from './sessions.ts'
import { startInstance } from './start-instance.ts'

export interface RoutingOptions {
  /** Of the network that tokens are for. */
  readonly network: string
  /** Signs them. */
  readonly identity: Pick<Identity, 'sign'>
  readonly table: Pick<NodeTable, 'get' | 'free' | 'reserve' | 'release'>
  /** All that are known, whatever their status. */
  nodes(): Iterable<{ readonly id: NodeId }>
  /** Into the batch that is being gathered. */
  note(document: Document): void
  /** Resolves when all that was noted is on disk. */
  durable(): Promise<void>
  /** Of a node's session; rejects at once where it has none. */
  request(node: NodeId, method: string, params: unknown, options?: { signal?: AbortSignal }): Promise<unknown>
  now(): number
  /** For how long a node has been silent: a clock that does not jump. Default `now`. */
  steady?(): number
  schedule(ms: number, work: () => void): () => void
  /** Fills with random bytes; absent: the system's. */
  readonly random?: (bytes: Uint8Array) => void
  readonly limits?: Partial<RoutingLimits>
}

/**
 * Which node serves a user, and which one has an instance. Belongs to the one coordinator that writes: what it decides is noted
 * as documents, and told to nobody before they are durable.
 *
 * It looks at the nodes' status itself, each `tickMs`; `nodeBack` only makes it sooner.
 */
export interface Routing extends AsyncDisposable {
  readonly network: Network['routing']
  /** Of the store, before anything is asked. Takes those of its own kinds: `session`, `instance`, `routing`. */
  load(documents: Iterable<Document>): void
  /** Its session stands (again): it is asked what it holds. */
  nodeBack(id: NodeId): void
  readonly counts: { readonly users: number; readonly instances: number }
  /** Nothing is begun any more; resolves when what was under way is over. */
  close(): Promise<void>
}

export const openRouting = (options: RoutingOptions): Routing => {
  const { network, identity, table, nodes, note, durable, request, now, steady = now, schedule, random } = options
  const limits: RoutingLimits = { ...DEFAULT_ROUTING, ...options.limits }
  const closing = new AbortController()
  const epochs = openEpochs()
  const watch = watchNodes({ table, nodes, now: steady, limits, onHome: (id) => users.recount(id) })
  const users = openUserSessions({ watch, epochs, note, now, limits })
  const records = openInstanceRecords({ table, epochs, note })
  const turns = openTurns()
  const context: InstanceContext = {
    ...{ table, watch, records, epochs, limits, turns, now, schedule, durable, request },
    closing: closing.signal,
  }
  const keeper = keepInstances(context)

  let cancelTick = (): void => {}
  const tick = (): void => {
    watch.look()
    const more = users.sweep()
    keeper.tick()
    cancelTick = schedule(more ? 0 : limits.tickMs, tick)
  }
  cancelTick = schedule(0, tick)

  const assertOpen = (): void => {
    if (closing.signal.aborted)
      throw new BrambleError('not_leader', { detail: 'this coordinator does not write any more' })
  }
  const routeTo = (
    node: NodeId,
    { tenant, scopes }: RouteCaller,
    whose: Pick<RouteClaims, 'user' | 'instance' | 'epoch'>,
  ): Route => {
    const url = watch.urlOf(node)
    const expiresAtMs = now() + limits.tokenMs
    // A network's administrators are not those of its nodes.
    const allowed = scopes.includes('admin') ? ['execute', 'read'] : [...scopes]
    const token = signRouteToken(identity, { network, node, tenant, ...whose, scopes: allowed, expiresAtMs })
    return { node, url, token, expiresAt: new Date(expiresAtMs).toISOString() }
  }
  const routeToInstance = (record: InstanceRecord, caller: RouteCaller): Route => {
    const { id, node, epoch } = record
    return { ...routeTo(node, caller, { instance: id, epoch }), instance: id }
  }
  const find = (ref: string, tenant: string): InstanceRecord => {
    assertOpen()
    const record = records.find(ref, tenant)
    if (!record) throw new BrambleError('not_found', { detail: `there is no instance \`${ref}\`` })
    return record
  }
  const view = (record: InstanceRecord) => recordView(record, watch.isGone(record.node))

  return {
    network: {
      user: async (user, caller) => {
        assertOpen()
        const placed = users.place(caller.tenant, user)
        if (!placed)
          throw new BrambleError('no_node', { detail: 'no node with a gateway is online', retryAfterMs: 1000 })
        if (placed.isNew) await durable()
        return routeTo(placed.node, caller, { user, epoch: placed.epoch })
      },
      instance: async (ref, caller) => {
        const record = find(ref, caller.tenant)
        if (record.state === 'starting' || watch.isGone(record.node)) await keeper.back(record)
        // It may have been deleted meanwhile.
        find(ref, caller.tenant)
        if (watch.isGone(record.node)) throw notThere(record)
        return routeToInstance(record, caller)
      },
      startInstance: async (spec, caller) => {
        assertOpen()
        const { instance, record } = await startInstance(context, spec, caller.tenant, random)
        return { instance, route: routeToInstance(record, caller) }
      },
      instances: async ({ limit, cursor }, tenant) => {
        assertOpen()
        const all = [...records.ofTenant(tenant)]
          .filter(({ id }) => cursor === undefined || id < cursor)
          .sort((left, right) => (left.id < right.id ? 1 : -1))
        const page = all.slice(0, limit)
        await durable()
        return { items: page.map(view), nextCursor: all.length > limit ? (page.at(-1)?.id ?? null) : null }
      },
      snapshotInstance: async (ref, tenant) => {
        const record = find(ref, tenant)
        await turns.take(record.id, async () => {
          if (watch.isGone(record.node)) throw notThere(record)
          if (!(await snapshotInstance(context, record)))
            throw new BrambleError('conflict', { detail: record.message ?? 'it is stopped: it has no state to keep' })
        })
        await durable()
        return view(record)
      },
      removeInstance: async (ref, tenant) => {
        const { id } = find(ref, tenant)
        await turns.take(id, async () => {
          const record = find(id, tenant)
          records.remove(record)
          await durable()
          // A node that is away is told when it is back.
          await keeper.letGo(record)
        })
      },
    },
    load: (documents) => {
      const all = [...documents]
      for (const document of all) epochs.load(document)
      records.load(all)
      watch.look()
      users.load(all)
    },
    nodeBack: (id) => {
      watch.lookAt(id)
      keeper.nodeBack(id)
    },
    counts: {
      get users() {
        return users.size
      },
      get instances() {
        return records.size
      },
    },
    close,
    [Symbol.asyncDispose]: close,
  }

  async function close(): Promise<void> {
    if (!closing.signal.aborted) {
      cancelTick()
      closing.abort(new BrambleError('not_leader', { detail: 'this coordinator does not write any more' }))
    }
    await keeper.settled()
    await turns.settled()
  }
}
