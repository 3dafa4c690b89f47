import type { Instance, InstanceSpec, Snapshot, SnapshotManifest, SnapshotRequest } from '@bramble/protocol'
import type { InstanceContext } from '../instances/instances.ts'
import type { SealedInstance } from '../instances/save.ts'
import type { Context } from './context.ts'
import { assertRoom, type KeepRequest, keepSeal } from './keep.ts'
import { headsOf } from './lineage.ts'
import { dropSeal, newSealName, type Sealing, sealingOf } from './seals.ts'

/** A snapshot of an instance. The instance's turn is held for the seal alone; what is written from it is written beside it. */
export const takeSnapshot = async (
  context: Context,
  ref: string,
  request: SnapshotRequest,
  instanceContext: InstanceContext,
): Promise<Snapshot> => {
  const { tenant } = instanceContext
  const signal = signalOf(context, instanceContext)
  await assertRoom(context, instanceContext)
  const seal = newSealName()
  const wish = { name: seal, memory: request.memory, signal }
  const taken = await context.instances.seal(ref, tenant, wish, async (sealed) => ({
    sealed,
    // Before another one of the same instance is taken.
    parents: await headsOf(context, sealed.id),
  }))
  return await keepTaken(context, { ...taken, request, instanceContext, signal })
}

export const signalOf = ({ closing }: Context, { signal }: InstanceContext): AbortSignal =>
  signal ? AbortSignal.any([signal, closing.signal]) : closing.signal

export interface Taken {
  readonly sealed: SealedInstance
  readonly parents: readonly string[]
  readonly request: SnapshotRequest
  readonly instanceContext: InstanceContext
  readonly signal: AbortSignal
}

export const keepTaken = async (
  context: Context,
  { sealed, parents, request, instanceContext, signal }: Taken,
): Promise<Snapshot> => {
  const { id, spec, image } = sealed
  const sealing = sealingOf(context, sealed.runtime.name)
  const { tenant, keyId, quota } = instanceContext
  return await orDropSeal(context, sealing, {
    owner: { tenant, keyId, quota },
    sealing,
    sealed: sealed.sealed,
    image,
    imageName: spec.image,
    config: configOf(spec, sealed),
    spec: JSON.stringify(spec),
    origin: 'instance',
    source: id,
    parents,
    head: id,
    name: request.name,
    labels: request.labels,
    ttlMs: request.ttlMs,
    signal,
  })
}

/** A snapshot of a seal that is of no other use: where there is none, it goes. */
export const orDropSeal = async (context: Context, sealing: Sealing, request: KeepRequest): Promise<Snapshot> => {
  try {
    const snapshot = await keepSeal(context, request)
    const frozen = request.sealed.frozenMs
    context.notice({ type: 'snapshot', origin: request.origin, frozenMs: frozen })
    return snapshot
  } catch (error) {
    await dropSeal(context, sealing.seals, request.sealed.name)
    throw error
  }
}

/** What a sandbox that continues from it is made with, on any node. */
export const configOf = (
  spec: Pick<InstanceSpec, 'env' | 'user' | 'workdir' | 'resources' | 'network'>,
  { hostname }: { readonly hostname: string },
): SnapshotManifest['config'] => {
  const { cpus, memoryMb, diskMb, pids } = spec.resources
  return {
    env: spec.env,
    ...(spec.user !== undefined && { user: spec.user }),
    ...(spec.workdir !== undefined && { workdir: spec.workdir }),
    cpus,
    memoryMb,
    diskMb,
    pids,
    network: spec.network,
    ...(hostname !== '' && { hostname }),
  }
}

/** Its state is in a snapshot with memory, and its sandbox is gone: memory, processor and place are free. */
export const pauseInto = async (context: Context, ref: string, instanceContext: InstanceContext): Promise<Instance> => {
  const { tenant } = instanceContext
  const signal = signalOf(context, instanceContext)
  await assertRoom(context, instanceContext)
  const wish = { name: newSealName(), signal }
  return await context.instances.save(ref, tenant, wish, async (sealed) => {
    const parents = await headsOf(context, sealed.id)
    const request: SnapshotRequest = { labels: {}, memory: true }
    const { id } = await keepTaken(context, { sealed, parents, request, instanceContext, signal })
    return id
  })
}
