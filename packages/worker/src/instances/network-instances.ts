import type { Engine, InstanceContext } from '@bramble/engine'
import {
  BrambleError,
  type Instance,
  type InstanceId,
  listPlacedSchema,
  parse,
  type RouteClaims,
  releasePlacedSchema,
  restorePlacedSchema,
  snapshotPlacedSchema,
  startPlacedSchema,
  tenantOnNode,
  toBrambleError,
} from '@bramble/protocol'
import type { RequestHandler } from '../session/session.ts'
import { type HeldInstance, openHeldInstances } from './held-instances.ts'

export interface NetworkInstancesOptions {
  readonly engine: Pick<Engine, 'instances' | 'snapshots' | 'blobs'>
  /** Where it is written which instances are the network's. */
  readonly path: string
  /** The network that this node joined, once it has. */
  network(): string | undefined
  /** Milliseconds that only grow. */
  readonly now?: () => number
}

/**
 * The instances that a network placed on this node. They are instances of the engine as all others, of tenants that no key of
 * the node is of (`tenantOnNode`); beside them it is written at which epoch each is held.
 *
 * The network says which of them are this node's. One that cannot hear it for as long as the network said takes no more tokens for
 * them, until the network has said again which are: by then they may have been placed elsewhere. Requests that were let in
 * before, and keys of the node's own, are not cut off.
 */
export interface NetworkInstances extends AsyncDisposable {
  /** What a coordinator asks, by method. */
  readonly requests: Readonly<Record<string, RequestHandler>>
  /** Whether what a token is for is here, as far as this node knows. */
  allows(claims: RouteClaims): boolean
  /** The session with the network stands, or does not. */
  connected(isConnected: boolean): void
  close(): Promise<void>
}

const KEY_ID = 'network'
const LABEL = 'bramble.instance'
/** Until the network has said how long. */
const FENCE_MS = 10_000

const monotonicNow = (): number => performance.now()

export const openNetworkInstances = async (options: NetworkInstancesOptions): Promise<NetworkInstances> => {
  const { engine, path, now = monotonicNow } = options
  const held = await openHeldInstances(path)
  const inTurn = turns()
  /** What the network says is this node's: nothing, until it was heard for the first time. */
  const own = new Set<InstanceId>()
  let awaySince: number | undefined
  let fenceMs = FENCE_MS

  const contextOf = (tenant: string, signal?: AbortSignal): InstanceContext => {
    const network = options.network()
    if (network === undefined) throw new BrambleError('conflict', { detail: 'this node has not joined a network yet' })
    return { tenant: tenantOnNode(network, tenant), keyId: KEY_ID, ...(signal && { signal }) }
  }
  const heldAt = (id: InstanceId, epoch: number): HeldInstance => {
    const found = held.get(id)
    if (found?.epoch === epoch) return found
    throw new BrambleError('not_found', {
      detail: found ? `${id} is held at ${found.epoch}, not at ${epoch}` : `${id} is not held here`,
    })
  }
  const drop = async ({ id, tenant }: HeldInstance): Promise<void> => {
    own.delete(id)
    await engine.instances.remove(id, contextOf(tenant).tenant).catch(unlessGone)
    await held.delete(id)
  }
  const forget = async (tenant: string, snapshots: readonly string[]): Promise<void> => {
    for (const snapshot of snapshots)
      await engine.snapshots.remove(snapshot, contextOf(tenant).tenant).catch(unlessGone)
  }

  const start = async (params: unknown, signal: AbortSignal, snapshot?: string): Promise<Instance> => {
    const { id, epoch, tenant, spec } = parse(startPlacedSchema, params)
    return await inTurn(id, async () => {
      const context = { ...contextOf(tenant, signal), id }
      const before = held.get(id)
      if (before && before.epoch > epoch)
        throw new BrambleError('conflict', { detail: `${id} is held at ${before.epoch}, which is later than ${epoch}` })
      if (before?.epoch === epoch) return await engine.instances.get(id, context.tenant)
      if (before) await drop(before)
      // Before it is made, so that nothing is made that nobody knows to be the network's.
      const now: HeldInstance = { id, tenant, epoch, fenced: false }
      await held.put(now)
      own.add(id)
      try {
        return await engine.instances.create({ ...spec, ...(snapshot !== undefined && { snapshot }) }, context)
      } catch (error) {
        await drop(now)
        throw error
      }
    })
  }

  const take = async (params: unknown, signal: AbortSignal) => {
    const { id, epoch, fence, forget: old } = parse(snapshotPlacedSchema, params)
    return await inTurn(id, async () => {
      const known = heldAt(id, epoch)
      if (known.fenced !== fence) await held.put({ ...known, fenced: fence })
      const context = contextOf(known.tenant, signal)
      await forget(known.tenant, old)
      const { status, snapshotId } = await engine.instances.get(id, context.tenant)
      const shared = engine.blobs.lower !== undefined
      if (status !== 'running' && status !== 'paused') return { status, shared }
      // Where it was paused into a snapshot, that is all there is of it.
      const snapshot =
        snapshotId ??
        (await engine.snapshots.take(id, { memory: false, labels: { [LABEL]: id } }, { ...context, signal })).id
      if (shared) await engine.blobs.settled({ signal })
      return { status, snapshot, shared }
    })
  }

  const release = async (params: unknown): Promise<object> => {
    const { id, epoch, forget: old } = parse(releasePlacedSchema, params)
    return await inTurn(id, async () => {
      const known = held.get(id)
      if (!known || known.epoch > epoch) return {}
      await drop(known)
      await forget(known.tenant, old)
      return {}
    })
  }

  const list = async (params: unknown) => {
    const { keep, ...bounds } = parse(listPlacedSchema, params)
    fenceMs = bounds.fenceMs
    own.clear()
    for (const { id, epoch } of keep) if (held.get(id)?.epoch === epoch) own.add(id)
    const items = held.all().map(async ({ id, tenant, epoch, fenced }) => {
      const status = await engine.instances.get(id, contextOf(tenant).tenant).then(
        (instance) => instance.status,
        (error: unknown) => {
          unlessGone(error)
          return 'gone' as const
        },
      )
      return { id, epoch, fenced, status }
    })
    return { items: await Promise.all(items) }
  }

  const isAway = (): boolean => awaySince !== undefined && now() - awaySince >= fenceMs

  const close = async (): Promise<void> => {
    await inTurn.settled()
    await held.close()
  }
  return {
    requests: {
      'instances.start': (params, signal) => start(params, signal),
      'instances.restore': (params, signal) => {
        const { snapshot, ...rest } = parse(restorePlacedSchema, params)
        return start(rest, signal, snapshot)
      },
      'instances.snapshot': take,
      'instances.release': release,
      'instances.list': list,
    },
    allows: ({ instance, epoch = 0 }) => {
      if (instance === undefined) return true
      const known = held.get(instance)
      if (!known || !own.has(known.id) || known.fenced || epoch < known.epoch) return false
      return !isAway()
    },
    connected: (isConnected) => {
      // What it was told before may not hold any more.
      if (isAway()) own.clear()
      awaySince = isConnected ? undefined : (awaySince ?? now())
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const unlessGone = (error: unknown): void => {
  if (toBrambleError(error).code !== 'not_found') throw error
}

/** Requests about one instance are answered one after another. */
const turns = () => {
  const last = new Map<InstanceId, Promise<unknown>>()
  const take = <T>(id: InstanceId, work: () => Promise<T>): Promise<T> => {
    const turn = (last.get(id) ?? Promise.resolve()).then(work, work)
    const over = turn
      .catch(() => {})
      .then(() => {
        if (last.get(id) === over) last.delete(id)
      })
    last.set(id, over)
    return turn
  }
  return Object.assign(take, {
    settled: async (): Promise<void> => {
      while (last.size > 0) await Promise.all(last.values())
    },
  })
}
