import { join } from 'node:path'
import {
  BrambleError,
  type ExecutionId,
  type ExecutionResult,
  type ExecutionSpec,
  type NetworkPolicy,
  newId,
  type Resources,
  resourcesSchema,
  type SandboxId,
  toBrambleError,
} from '@bramble/protocol'
import { auto, type ImageStore, type LocalImage, type SandboxResources, type Wanted } from '@bramble/runtime'
import { createAdmission, isWaiting, type Place, type Waiting } from './admission.ts'
import { placeOf } from './command.ts'
import { createEndings } from './endings.ts'
import type { Engine, ExecuteContext, Execution } from './engine.ts'
import { openHistory } from './history.ts'
import { openInstances } from './instances/open-instances.ts'
import { sandboxesToKeep } from './instances/recover.ts'
import { defaultEngineLimits } from './limits.ts'
import { LiveExecution } from './live.ts'
import { emptyLoad } from './load.ts'
import { mountsFor } from './mounts.ts'
import { type OpenEngineOptions, silentLog, systemClock } from './options.ts'
import { inputHashOf } from './outcome.ts'
import { instanceSpecOf, runPersistent } from './persistent.ts'
import type { Kind } from './pool.ts'
import { createPools } from './pools.ts'
import { createQuiet } from './quiet.ts'
import { replay } from './replay.ts'
import { run } from './run.ts'
import { INSTANCE_MIGRATIONS, type InstanceTables } from './store/instance-tables.ts'
import { databasePath, loadInstances } from './store/instances.ts'
import { openDatabase } from './store/open-database.ts'
import { ENGINE_MIGRATIONS, type EngineTables } from './store/tables.ts'
import { VOLUME_MIGRATIONS, type VolumeTables } from './store/volume-tables.ts'
import { assertSupported } from './support.ts'
import { usageBetween } from './usage.ts'
import { openVolumes } from './volumes/open-volumes.ts'

/** The image of specs that name none. */
const DEFAULT_IMAGE = 'base'
const SHRINK_EVERY_MS = 5000
const DEFAULT_GRACE_MS = 10_000

interface Admitted {
  readonly kind: Kind
  readonly inputHash: string
  /** Undefined where an instance of its own holds the place. */
  readonly entered: Place | Waiting | undefined
}

const sandboxResources = ({ cpus, memoryMb, diskMb, pids }: Resources): SandboxResources => ({
  cpus,
  memoryMb,
  diskMb,
  pids,
})

/** Leaves the place that an execution does not need after all. */
const giveBack = (entered: Place | Waiting): void => {
  if (!isWaiting(entered)) {
    entered.release()
    return
  }
  entered.leave()
  entered.granted.then(
    (place) => place?.release(),
    () => {},
  )
}

const findImage = (images: ImageStore, name: string): LocalImage | undefined => {
  try {
    return images.resolve(name)
  } catch (error) {
    if (toBrambleError(error).code === 'image_not_found') return undefined
    throw error
  }
}

/**
 * Opens the engine of a data directory: takes its lock, removes what a crash left behind, and serves. The runtimes stay
 * the caller's: closing the engine destroys its sandboxes, not them. Throws `conflict` when another engine has it open.
 */
export const openEngine = async (options: OpenEngineOptions): Promise<Engine> => {
  const {
    runtimes,
    images,
    unavailable = [],
    clock = systemClock,
    log = silentLog,
    onNotice: notice = () => {},
  } = options
  const overcommit = options.memoryOvercommit === undefined ? {} : { memoryOvercommit: options.memoryOvercommit }
  const runtime = auto(runtimes, unavailable)
  const limits = { ...defaultEngineLimits(overcommit), ...options.limits }
  const db = await openDatabase<EngineTables>({
    path: join(options.dataDirectory, 'engine.db'),
    owner: 'engine',
    migrations: ENGINE_MIGRATIONS,
    durability: 'normal',
    exclusive: true,
  })
  await using undo = new AsyncDisposableStack()
  undo.defer(() => db.destroy())
  // What a client was told of an instance survives a power failure; history need not.
  const instancesDb = await openDatabase<InstanceTables>({
    path: databasePath(options.dataDirectory),
    owner: 'instances',
    migrations: INSTANCE_MIGRATIONS,
    exclusive: true,
  })
  undo.defer(() => instancesDb.destroy())
  const stored = await loadInstances(instancesDb)
  const reaped = await runtime.reap(sandboxesToKeep(stored.rows))
  if (reaped > 0) log.warn({ sandboxes: reaped }, 'sandboxes of an earlier node were removed')
  const volumes =
    runtime.volumes &&
    undo.use(
      await openVolumes({
        db: await openDatabase<VolumeTables>({
          path: join(options.dataDirectory, 'volumes.db'),
          owner: 'volumes',
          migrations: VOLUME_MIGRATIONS,
        }),
        store: runtime.volumes,
        log,
        owners: new Set(stored.rows.map(({ layer }) => layer)),
        usersOf: (tenant, volume) => instances.usersOf(tenant, volume),
        settled: () => endings.drain(),
      }),
    )
  const history = await openHistory({ db, limits, clock, log, notice })

  const load = emptyLoad()
  const quiet = createQuiet({ clock })
  const admission = createAdmission({ limits, load, clock })
  const onGone = (): void => {
    admission.wake()
    pools.pump()
  }
  const { maxDestroying, maxEnding } = limits
  const maxPatient = Math.floor(maxEnding / 4)
  const endings = createEndings({ load, maxDestroying, maxPatient, quiet, clock, log, notice, onGone })
  const pools = createPools({ limits, load, endings, quiet, clock, log, notice })
  const lives = new Map<ExecutionId, LiveExecution>()
  const outputRoom = { leftBytes: limits.maxKeptOutputBytes }
  const uses = new Map<string, number>()
  let closing: Promise<void> | undefined

  const kindOf = (image: LocalImage, wanted: Wanted & { network?: NetworkPolicy }, resources: Resources): Kind => ({
    image,
    runtime: runtime.select(wanted),
    resources: sandboxResources(resources),
    ...(wanted.network !== undefined && { network: wanted.network }),
  })

  const keepDefault = (): void => {
    const image = findImage(images, DEFAULT_IMAGE)
    if (image) pools.keep(kindOf(image, {}, resourcesSchema.parse({})))
  }
  const use = (digest: string, by: 1 | -1): void => {
    const count = (uses.get(digest) ?? 0) + by
    if (count === 0) uses.delete(digest)
    else uses.set(digest, count)
  }

  const instances = await openInstances(
    {
      db: instancesDb,
      runtime,
      runtimes,
      images,
      volumes,
      admission,
      load,
      limits,
      clock,
      log,
      notice,
      outputRoom,
      makeRoom: (memoryMb) => pools.makeRoom(memoryMb),
      useImage: use,
      charge: (used) => history.charge(used),
    },
    stored,
  )
  undo.move()

  keepDefault()
  const shrinking = setInterval(() => {
    keepDefault()
    pools.shrink()
  }, SHRINK_EVERY_MS).unref()

  const admit = (spec: ExecutionSpec, context: ExecuteContext): Admitted => {
    if (closing) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
    const kind = kindOf(images.resolve(spec.image), spec, spec.resources)
    assertSupported(spec, { capabilities: kind.runtime.capabilities, volumes: volumes !== undefined })
    const inputHash = inputHashOf(spec, kind.image.digest)
    const { cpus, memoryMb } = spec.resources
    const { tenant, keyId, quota } = context
    if (spec.mode === 'persistent') {
      instanceSpecOf(spec)
      return { kind, inputHash, entered: undefined }
    }
    return { kind, inputHash, entered: admission.enter({ tenant, keyId, cpus, memoryMb, quota }) }
  }

  const promoteCaches = (tenant: string, owner: string): void =>
    void volumes?.promote(tenant, owner).catch((error: unknown) => {
      log.warn({ err: error, owner }, 'what a sandbox added to its caches could not be kept')
    })

  const withMounts = async (kind: Kind, { spec, context }: LiveExecution): Promise<Kind> => {
    const { volumes: wanted = [], caches = [], env } = spec
    if (wanted.length + caches.length === 0) return kind
    const { user } = placeOf(spec, kind.image)
    const { tenant } = context
    const mounts = await mountsFor(volumes, { tenant, volumes: wanted, caches, user, env, image: kind.image })
    // What its caches were given becomes the tenant's once it is gone.
    const onGone = caches.length > 0 ? (id: SandboxId) => promoteCaches(tenant, id) : undefined
    return { ...kind, mounts, ...(onGone && { onGone }) }
  }

  const runOne = async (live: LiveExecution, kind: Kind, entered: Admitted['entered']): Promise<ExecutionResult> => {
    const { changed } = history
    if (!entered) return await runPersistent({ instances, limits, clock, log, notice, changed }, live, kind)
    const mounted = await withMounts(kind, live).catch((error: unknown) => {
      giveBack(entered)
      throw error
    })
    return await run({ pools, endings, limits, clock, notice, changed }, live, mounted, entered)
  }

  const carry = async (live: LiveExecution, kind: Kind, entered: Admitted['entered']): Promise<ExecutionResult> => {
    const { signal } = live.context
    const onAbort = (): void => live.stop('cancelled')
    signal?.addEventListener('abort', onAbort, { once: true })
    if (signal?.aborted) onAbort()
    const finishedAt = (): string => new Date(clock.now()).toISOString()
    try {
      const result = await runOne(live, kind, entered)
      live.conclude({ result }, result.finishedAt)
      const { status, runtime, timings, usage } = result
      notice({ type: 'finished', status, runtime, timings, cpuMs: usage.cpuMs })
      return result
    } catch (thrown) {
      const error = toBrambleError(thrown)
      if (error.code === 'internal') log.error({ err: thrown, execution: live.id }, 'an execution broke')
      live.conclude({ error: error.toProblem() }, finishedAt())
      notice({ type: 'lost', code: error.code })
      throw error
    } finally {
      signal?.removeEventListener('abort', onAbort)
      use(kind.image.digest, -1)
      lives.delete(live.id)
      live.stdout.release()
      live.stderr.release()
      history.changed(live)
      live.recorded()
    }
  }

  const execute = (spec: ExecutionSpec, context: ExecuteContext): Execution => {
    let admitted: Admitted
    try {
      admitted = admit(spec, context)
    } catch (error) {
      notice({ type: 'refused', code: toBrambleError(error).code })
      throw error
    }
    const { kind, inputHash, entered } = admitted
    const now = clock.now()
    const live = new LiveExecution(
      newId('execution', { now: () => now }),
      spec,
      context,
      inputHash,
      new Date(now).toISOString(),
      outputRoom,
    )
    lives.set(live.id, live)
    use(kind.image.digest, 1)
    if (entered && isWaiting(entered)) notice({ type: 'queued' })
    history.changed(live)
    const result = carry(live, kind, entered)
    // Who streams may never look at the promise; the stream's last event says the same.
    result.catch(() => {})
    return {
      id: live.id,
      result,
      cancel: () => live.stop('cancelled'),
      [Symbol.asyncIterator]: () => (live.channel ?? live.watch())[Symbol.asyncIterator](),
    }
  }

  const ofTenant = (id: ExecutionId, tenant: string): LiveExecution | undefined => {
    const live = lives.get(id)
    return live?.context.tenant === tenant ? live : undefined
  }

  const logs: Engine['executions']['logs'] = async function* (id, tenant, options) {
    const live = ofTenant(id, tenant)
    if (live) yield* live.watch(options)
    else yield* replay(await history.find(id, tenant))
  }

  const removeImage: ImageStore['remove'] = async (digest, { inUse }) => {
    const image = images.resolve(digest)
    const used = (candidate: string): boolean => uses.has(candidate) || inUse(candidate)
    if (!used(image.digest) && pools.dropImage(image.digest)) await endings.drain()
    await images.remove(image.digest, { inUse: used })
    await runtime.forget(image.digest)
  }

  const shutDown = async (graceMs: number): Promise<void> => {
    clearInterval(shrinking)
    admission.close()
    const ends = Promise.all([...lives.values()].map((live) => live.done))
    const late = Promise.withResolvers<void>()
    const timer = setTimeout(late.resolve, graceMs)
    await Promise.race([ends, late.promise])
    clearTimeout(timer)
    for (const live of lives.values()) live.stop('cancelled')
    await ends
    await pools.close()
    await endings.drain()
    await instances.close()
    quiet.close()
    await history.close()
  }

  const close: Engine['close'] = ({ graceMs = DEFAULT_GRACE_MS } = {}) => {
    closing ??= shutDown(graceMs)
    return closing
  }

  return {
    execute,
    executions: {
      get: (id, tenant) => history.find(id, tenant),
      list: (query) => history.list(query),
      async cancel(id, tenant) {
        const live = ofTenant(id, tenant)
        live?.stop('cancelled')
        await live?.done
        return history.find(id, tenant)
      },
      logs,
    },
    instances,
    ...(volumes && { volumes }),
    images: {
      resolve: (name) => images.resolve(name),
      list: () => images.list(),
      async import(source, importOptions) {
        const image = await images.import(source, importOptions)
        keepDefault()
        return image
      },
      remove: removeImage,
    },
    pools: {
      list: () => pools.list(),
      async prewarm({ image, count, runtime, resources }, { signal } = {}) {
        if (closing) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
        return await pools.prewarm(kindOf(images.resolve(image), { runtime }, resources), count, signal)
      },
    },
    async usage(query) {
      await history.flush()
      return await usageBetween(db, query)
    },
    status: () => ({
      queued: admission.queued,
      running: admission.running,
      pooled: pools.pooled,
      reservedMemoryMb: load.boxesMb,
      instances: instances.count(),
      runtimes: [
        ...runtimes.map(({ name }) => ({ name, available: true })),
        ...unavailable.map(({ name, reason }) => ({ name, available: false, reason })),
      ],
    }),
    close,
    [Symbol.asyncDispose]: () => close({ graceMs: 0 }),
  }
}
