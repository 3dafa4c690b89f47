import {
  BrambleError,
  type Instance,
  type InstanceId,
  type InstanceSpec,
  type InstanceStats,
  type InstanceStatus,
  LIMITS,
} from '@bramble/protocol'
import type { Sandbox } from '@bramble/runtime'
import type { ExposureRow, InstanceRow } from '../store/instance-tables.ts'
import {
  deleteExposure,
  listInstances,
  type loadInstances,
  updateInstances,
  upsertExposure,
} from '../store/instances.ts'
import { runtimeOf } from './box.ts'
import { streamRequestFor } from './command.ts'
import { type Context, type InstancesDeps, save, timeText } from './context.ts'
import { createDeadlines } from './deadlines.ts'
import { onDeadline } from './expiry.ts'
import { armDeadline, touch } from './idle.ts'
import type { Exposure, InstanceContext, InstanceLease, Instances } from './instances.ts'
import { assertUsable, leaseOf } from './lease.ts'
import { assertOffered, createIn, pauseIn, removeIn, resumeIn, rowOf, startIn, stopIn } from './lifecycle.ts'
import { instanceOf, LiveInstance } from './live-instance.ts'
import { chargeInstance, startMetering } from './metering.ts'
import { recover, specOf } from './recover.ts'
import { type SealedInstance, saveIn, sealIn } from './save.ts'
import type { SealWish } from './seal.ts'
import type { Origin } from './states.ts'
import { stopAll } from './stop-all.ts'
import { createStream } from './stream.ts'

export interface OpenInstances extends Instances {
  /** Instances that have a volume of the tenant mounted, whether they run or not. */
  usersOf(tenant: string, volume: string): InstanceId[]
  count(): Record<InstanceStatus, number>
  /** Several that begin alike, side by side: all of them, or none. */
  createAll(specs: readonly InstanceSpec[], context: InstanceContext, beginning?: Beginning): Promise<Instance[]>
  /**
   * Keeps the state of an instance that runs or is paused as a seal. `then` has it before anything else is done to the instance;
   * what it rejects with is what this rejects with.
   */
  seal<T>(ref: string, tenant: string, wish: SealWish, then: (sealed: SealedInstance) => Promise<T>): Promise<T>
  /** Pauses an instance into a snapshot, which `keep` gives: its sandbox is gone then. */
  save(
    ref: string,
    tenant: string,
    wish: Omit<SealWish, 'memory'>,
    keep: (sealed: SealedInstance) => Promise<string>,
  ): Promise<Instance>
  /** Of any tenant, and as long as anything of it is left. */
  has(id: string): boolean
  /** Whether an instance has its state in that snapshot, and nowhere else. */
  isSavedIn(tenant: string, snapshot: string): boolean
  /** That of a running instance. */
  sandboxOf(id: InstanceId): Sandbox | undefined
  /** Lets go of all that run: they go on without this node. */
  close(): Promise<void>
}

/** What an instance begins as that does not begin as its image. */
export interface Beginning {
  readonly runtime: string
  readonly imageDigest: string
  readonly seal: string
  readonly origin: Origin
}

const notFound = (ref: string): BrambleError => new BrambleError('not_found', { detail: `there is no instance ${ref}` })

/** The instances of a node, from what its store says of them. Sandboxes that are not theirs were reaped already. */
export const openInstances = async (
  deps: InstancesDeps,
  stored: Awaited<ReturnType<typeof loadInstances>>,
): Promise<OpenInstances> => {
  const { clock, limits, log } = deps
  const context: Context = {
    ...deps,
    byId: new Map(),
    byName: new Map(),
    deadlines: createDeadlines(clock, (live: LiveInstance) => onDeadline(context, live)),
    closing: new AbortController(),
    forget(live) {
      const { id, tenant, name, image_digest } = live.row
      context.deadlines.forget(live)
      context.byId.delete(id)
      const named = context.byName.get(name ?? '')
      if (named?.get(tenant) === live) named.delete(tenant)
      if (named?.size === 0) context.byName.delete(name ?? '')
      deps.useImage(image_digest, -1)
    },
  }

  const add = (row: InstanceRow, spec: InstanceSpec): LiveInstance => {
    let noisy = false
    const stream = createStream({
      clock,
      stallMs: limits.streamStallMs,
      requestOf(command) {
        const { box } = live
        if (!box) throw new BrambleError('instance_stopped', { detail: 'its sandbox is gone' })
        assertUsable(context, live)
        return streamRequestFor(spec, box.image, box.defaults, command)
      },
      onExit: () => touch(context, live),
      onNoise() {
        if (!noisy) log.info({ instance: row.id }, 'events that are not {"name", "data"} are dropped')
        noisy = true
      },
    })
    const usedMs = row.used_at === null ? clock.now() : Date.parse(row.used_at)
    const live = new LiveInstance(row, spec, usedMs, stream)
    context.byId.set(row.id, live)
    if (row.name !== null) {
      const named = context.byName.get(row.name) ?? new Map<string, LiveInstance>()
      context.byName.set(row.name, named.set(row.tenant, live))
    }
    deps.useImage(row.image_digest, 1)
    return live
  }

  const lives = stored.rows.map((row) => add(row, specOf(row)))
  for (const exposure of stored.exposures) {
    const live = context.byId.get(exposure.instance_id)
    if (live) live.exposures = new Map([...live.exposures, [exposure.port, exposure]])
  }
  await recover(context, lives)
  const metering = startMetering(context)

  const find = (ref: string, tenant: string): LiveInstance => {
    const live = context.byId.get(ref) ?? context.byName.get(ref)?.get(tenant)
    if (!live || live.row.tenant !== tenant || live.row.doomed) throw notFound(ref)
    return live
  }
  /** It may have gone while its caller waited for its turn. */
  const assertThere = (ref: string, live: LiveInstance): void => {
    if (live.row.doomed || !context.byId.has(live.id)) throw notFound(ref)
  }
  const assertOpen = (): void => {
    if (context.closing.signal.aborted) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
  }
  const view = (live: LiveInstance): Instance => instanceOf(live.row, live.spec)
  const change = async (
    ref: string,
    tenant: string,
    work: (context: Context, live: LiveInstance) => Promise<void>,
  ): Promise<Instance> => {
    assertOpen()
    const live = find(ref, tenant)
    await live.exclusive(async () => {
      assertOpen()
      assertThere(ref, live)
      await work(context, live)
    })
    return view(live)
  }

  /** Those that are new, in `context.byId`; nothing of them is made. */
  const addAll = (
    specs: readonly InstanceSpec[],
    instanceContext: InstanceContext,
    beginning: Beginning | undefined,
  ): LiveInstance[] => {
    const { tenant, id } = instanceContext
    if (id !== undefined && (specs.length > 1 || context.byId.has(id)))
      throw new BrambleError('conflict', { detail: `there is an instance ${id} already, or what is left of it` })
    let own = 0
    for (const { row } of context.byId.values()) if (row.tenant === tenant) own++
    if (own + specs.length > limits.maxTenantInstances)
      throw new BrambleError('quota_exceeded', {
        detail: `the tenant has ${own} instances, stopped ones too, and may have ${limits.maxTenantInstances}: delete some`,
      })
    if (context.byId.size + specs.length > limits.maxInstances)
      throw new BrambleError('queue_full', {
        detail: `the node has ${limits.maxInstances} instances, and keeps no more`,
      })
    const rows = specs.map((spec) => {
      const image = deps.images.resolve(beginning?.imageDigest ?? spec.image)
      const runtime = deps.runtime.select(spec)
      const own = beginning ? deps.runtimes.find(({ name }) => name === beginning.runtime) : runtime
      if (!own) throw new BrambleError('unsupported', { detail: `this node has no runtime \`${beginning?.runtime}\`` })
      assertOffered(context, spec, own)
      if (spec.name !== undefined && context.byName.get(spec.name)?.has(tenant))
        throw new BrambleError('conflict', {
          detail: `there is an instance \`${spec.name}\` already: delete it, or choose another name`,
        })
      const made = { image, runtime: own, nowMs: clock.now(), parent: beginning?.origin.parent }
      return { row: rowOf(spec, instanceContext, made), spec }
    })
    return rows.map(({ row, spec }) => {
      const live = add(row, spec)
      live.from = beginning && { seal: beginning.seal, memory: beginning.origin.memory }
      return live
    })
  }

  const createAll: OpenInstances['createAll'] = async (specs, instanceContext, beginning) => {
    assertOpen()
    const lives = addAll(specs, instanceContext, beginning)
    const { signal: closing } = context.closing
    const signal = instanceContext.signal ? AbortSignal.any([instanceContext.signal, closing]) : closing
    // Nobody else does anything to one of them meanwhile.
    const made = createIn(context, lives, signal, beginning?.origin)
    await Promise.all(lives.map((live) => live.exclusive(() => made)))
    return lives.map(view)
  }

  const create: Instances['create'] = async (spec, instanceContext) => {
    assertOpen()
    const { tenant, signal = context.closing.signal } = instanceContext
    using state =
      spec.snapshot === undefined
        ? undefined
        : await context.states.open(spec.snapshot, tenant, { memory: false, signal })
    const beginning: Beginning | undefined = state && {
      ...state,
      origin: { tenant, parent: state.id, parentKind: 'snapshot', state: state.id, memory: false },
    }
    const [made] = await createAll([spec], instanceContext, beginning)
    if (!made) throw new BrambleError('internal', { detail: 'an instance was made, and is not there' })
    return made
  }

  const seal: OpenInstances['seal'] = async (ref, tenant, wish, then) => {
    assertOpen()
    const live = find(ref, tenant)
    return await live.exclusive(async () => {
      assertOpen()
      assertThere(ref, live)
      return await then(await sealIn(context, live, wish))
    })
  }

  const use: Instances['use'] = async (ref, tenant, { signal } = {}): Promise<InstanceLease> => {
    assertOpen()
    const live = find(ref, tenant)
    if (live.row.status === 'running' && live.box?.ready) return leaseOf(context, live, live.box)
    const lease = live.exclusive(async () => {
      signal?.throwIfAborted()
      assertOpen()
      const { row } = live
      assertThere(ref, live)
      if (row.status === 'paused') {
        if (!live.spec.autoResume) throw new BrambleError('conflict', { detail: 'the instance is paused' })
        await resumeIn(context, live)
      }
      if (row.status !== 'running' || !live.box?.ready)
        throw new BrambleError('instance_stopped', {
          detail: row.status === 'running' ? 'its sandbox has just ended' : (row.reason ?? `it is ${row.status}`),
        })
      return leaseOf(context, live, live.box)
    })
    return await lease
  }

  const exposureOf = (live: LiveInstance, row: ExposureRow): Exposure => ({
    instanceId: live.id,
    ...(live.row.name !== null && { name: live.row.name }),
    tenant: live.row.tenant,
    port: row.port,
    visibility: row.visibility,
    createdAt: row.created_at,
  })

  const setExposures = (live: LiveInstance, rows: ExposureRow[]): void => {
    live.exposures = new Map(rows.sort((a, b) => a.port - b.port).map((row) => [row.port, row]))
  }

  const expose: Instances['expose'] = async (ref, tenant, port, visibility) => {
    assertOpen()
    const live = find(ref, tenant)
    return await live.exclusive(async () => {
      assertThere(ref, live)
      const max = LIMITS.maxExposedPorts.value
      const before = live.exposures.get(port)
      if (!before && live.exposures.size >= max)
        throw new BrambleError('quota_exceeded', { detail: `the instance exposes ${max} ports already` })
      const created_at = before?.created_at ?? timeText(clock.now())
      const row: ExposureRow = { instance_id: live.id, port, visibility, created_at }
      await upsertExposure(deps.db, row)
      setExposures(live, [...[...live.exposures.values()].filter((other) => other.port !== port), row])
      return exposureOf(live, row)
    })
  }

  const unexpose: Instances['unexpose'] = async (ref, tenant, port) => {
    assertOpen()
    const live = find(ref, tenant)
    await live.exclusive(async () => {
      assertThere(ref, live)
      if (!live.exposures.has(port)) throw new BrambleError('not_found', { detail: `port ${port} is not exposed` })
      await deleteExposure(deps.db, live.id, port)
      setExposures(
        live,
        [...live.exposures.values()].filter((other) => other.port !== port),
      )
    })
  }

  const stats: Instances['stats'] = async (ref, tenant): Promise<InstanceStats> => {
    const live = find(ref, tenant)
    const { box, id } = live
    if (!box || box.over) {
      const diskBytes = await runtimeOf(context, live.row).layers.usedBytes(live.row.layer)
      return { id, cpuMs: 0, memoryBytes: 0, diskBytes, egressBytes: 0, ingressBytes: 0, processes: 0 }
    }
    const { cpuMs, memoryBytes, diskBytes, egressBytes, ingressBytes, processes } = await box.sandbox.stats()
    return { id, cpuMs, memoryBytes, diskBytes, egressBytes, ingressBytes, processes }
  }

  const close = async (): Promise<void> => {
    if (context.closing.signal.aborted) return
    context.closing.abort(new BrambleError('shutting_down', { detail: 'the engine is closing' }))
    context.deadlines.close()
    await metering.stop()
    const all = [...context.byId.values()]
    await Promise.all(all.map((live) => live.settled()))
    const changes = new Map()
    for (const live of all) {
      if (!live.place || !context.byId.has(live.id)) continue
      const used_at = timeText(live.leases > 0 ? clock.now() : live.lastUsedMs)
      changes.set(live.id, { ...(await chargeInstance(context, live)), used_at })
    }
    await updateInstances(deps.db, changes)
    for (const live of all) await letGo(live)
    await deps.db.destroy()
  }

  const letGo = async (live: LiveInstance): Promise<void> => {
    const { box } = live
    if (!box) return
    box.over = true
    box.ready = false
    live.stream.disconnect()
    box.ended.resolve({ status: live.row.status, reason: 'the node is shutting down' })
    await box.sandbox.agent.close()
  }

  return {
    create,
    createAll,
    seal,
    save: (ref, tenant, wish, keep) => change(ref, tenant, (_, live) => saveIn(context, live, wish, keep)),
    async get(ref, tenant) {
      return view(find(ref, tenant))
    },
    async list(query) {
      const rows = await listInstances(deps.db, { ...query, limit: query.limit + 1 })
      const items = rows.slice(0, query.limit).map((row) => instanceOf(row, specOf(row)))
      return { items, nextCursor: rows.length > query.limit ? (items.at(-1)?.id ?? null) : null }
    },
    start: (ref, tenant) => change(ref, tenant, startIn),
    stop: (ref, tenant) => change(ref, tenant, stopIn),
    async stopAll() {
      assertOpen()
      return await stopAll(context)
    },
    pause: (ref, tenant) => change(ref, tenant, pauseIn),
    resume: (ref, tenant) => change(ref, tenant, resumeIn),
    extend: (ref, tenant, ttlMs) =>
      change(ref, tenant, async (_, live) => {
        await save(context, live, { expires_at: ttlMs === null ? null : timeText(clock.now() + ttlMs) })
        armDeadline(context, live)
      }),
    async remove(ref, tenant) {
      await change(ref, tenant, removeIn)
    },
    use,
    stats,
    expose,
    unexpose,
    async exposures(ref, tenant) {
      const live = find(ref, tenant)
      return [...live.exposures.values()].map((row) => exposureOf(live, row))
    },
    findExposed(ref, port) {
      const byId = context.byId.get(ref)
      const found: Exposure[] = []
      for (const live of byId ? [byId] : (context.byName.get(ref)?.values() ?? [])) {
        const row = live.row.doomed ? undefined : live.exposures.get(port)
        if (row) found.push(exposureOf(live, row))
      }
      return found
    },
    usersOf: (tenant, volume) =>
      [...context.byId.values()]
        .filter(({ row, spec }) => row.tenant === tenant && spec.volumes.some(({ name }) => name === volume))
        .map(({ id }) => id),
    has: (id) => context.byId.has(id),
    isSavedIn: (tenant, snapshot) =>
      [...context.byId.values()].some(
        ({ row }) => row.tenant === tenant && row.snapshot_id === snapshot && !row.doomed,
      ),
    count() {
      const counts = { starting: 0, running: 0, paused: 0, stopping: 0, stopped: 0 }
      for (const { row } of context.byId.values()) if (!row.doomed) counts[row.status]++
      return counts
    },
    sandboxOf: (id) => context.byId.get(id)?.box?.sandbox,
    close,
  }
}
