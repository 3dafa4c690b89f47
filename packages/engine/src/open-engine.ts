import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { fsStore } from '@bramble/blobs'
import { type BlobHash, BrambleError, resourcesSchema, toBrambleError } from '@bramble/protocol'
import { auto, type ImageStore, type LocalImage } from '@bramble/runtime'
import { createAdmission } from './admission.ts'
import { openTenantBlobs } from './blobs/open-tenant-blobs.ts'
import { resultOfHit } from './cache/hit.ts'
import { openResultCache } from './cache/open-result-cache.ts'
import { createEndings } from './endings.ts'
import type { Engine } from './engine.ts'
import { createExecutions } from './executions.ts'
import { type HistoryDeps, openHistory } from './history.ts'
import { openInstances } from './instances/open-instances.ts'
import { sandboxesToKeep } from './instances/recover.ts'
import { defaultEngineLimits } from './limits.ts'
import { emptyLoad } from './load.ts'
import { type OpenEngineOptions, silentLog, systemClock } from './options.ts'
import { sha256 } from './outcome.ts'
import { createPools } from './pools.ts'
import { createQuiet } from './quiet.ts'
import { openSnapshots } from './snapshots/open-snapshots.ts'
import { BLOB_MIGRATIONS, type BlobTables } from './store/blob-tables.ts'
import { INSTANCE_MIGRATIONS, type InstanceTables } from './store/instance-tables.ts'
import { databasePath, loadInstances } from './store/instances.ts'
import { openDatabase } from './store/open-database.ts'
import { ENGINE_MIGRATIONS, type EngineTables } from './store/tables.ts'
import { VOLUME_MIGRATIONS, type VolumeTables } from './store/volume-tables.ts'
import { openSync } from './sync/open-sync.ts'
import { usageBetween, withStorage } from './usage.ts'
import { openVolumes } from './volumes/open-volumes.ts'

/** The image of specs that name none. */
const DEFAULT_IMAGE = 'base'
const SHRINK_EVERY_MS = 5000
const DEFAULT_GRACE_MS = 10_000
/** Of the hash that stands for this node in results. */
const NODE_CHARS = 16
const closeStore = (store: { close(): Promise<void> }): Promise<void> => store.close()

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
  const dataDirectory = resolve(options.dataDirectory)
  const node = sha256(`${hostname()} ${dataDirectory}`).slice(0, NODE_CHARS)
  const store = options.blobs ?? undo.adopt(await fsStore({ directory: join(dataDirectory, 'blobs') }), closeStore)
  const isIdle = (): boolean => admission.running + admission.queued === 0
  const sync = undo.adopt(
    openSync({
      ...{ blobs: store, images, node, log, isIdle, volumes, limits: options.syncLimits },
      stagingDirectory: join(dataDirectory, 'sync'),
      roots: (): AsyncIterable<BlobHash> => tenantBlobs.roots(),
    }),
    closeStore,
  )
  const { blobs } = sync
  const blobsDb = await openDatabase<BlobTables>({
    path: join(dataDirectory, 'blobs.db'),
    owner: 'blobs',
    migrations: BLOB_MIGRATIONS,
  })
  const tenantBlobs = undo.adopt(await openTenantBlobs({ db: blobsDb, store: blobs, clock, log }), closeStore)
  const cache = undo.adopt(
    await openResultCache({
      store: blobs,
      node,
      redisUrl: options.redisUrl,
      limits: options.cacheLimits,
      ...{ clock, log, notice },
      grant: (tenant, granted, expiresAtMs) => tenantBlobs.grant(tenant, granted, expiresAtMs),
    }),
    closeStore,
  )
  const resolveHit: HistoryDeps['resolveHit'] = async (hit, tenant) =>
    resultOfHit(hit, await cache.find(tenant, hit.inputHash))
  const history = await openHistory({ db, limits, clock, log, notice, resolveHit })

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
  const outputRoom = { leftBytes: limits.maxKeptOutputBytes }
  const uses = new Map<string, number>()
  const keepDefault = (): void => {
    const image = findImage(images, DEFAULT_IMAGE)
    if (image) pools.keep(executions.kindOf(image, {}, resourcesSchema.parse({})))
  }
  const use = (digest: string, by: 1 | -1): void => {
    if (by === 1) sync.usedImage(digest)
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
      states: {
        open: (ref, tenant, wish) => snapshots.states.open(ref, tenant, wish),
        began: (ids, origin) => snapshots.states.began(ids, origin),
        forget: (ids) => snapshots.states.forget(ids),
      },
    },
    stored,
  )
  const snapshots = await openSnapshots({
    dataDirectory,
    blobs,
    runtimes,
    images,
    instances,
    executions: history,
    limits,
    clock,
    log,
    notice,
    extraRoots: [() => cache.roots(), () => tenantBlobs.roots()],
    isIdle,
    obtainImage: sync.obtainImage,
    needImage: sync.needImage,
  })
  const executions = createExecutions({
    runtime,
    images,
    volumes,
    instances,
    admission,
    pools,
    endings,
    history,
    cache,
    blobs: tenantBlobs,
    limits,
    clock,
    log,
    notice,
    outputRoom,
    states: snapshots.ofExecutions,
    useImage: use,
  })
  undo.move()

  sync.start()
  keepDefault()
  const shrinking = setInterval(() => {
    keepDefault()
    pools.shrink()
  }, SHRINK_EVERY_MS).unref()

  const removeImage: ImageStore['remove'] = async (digest, { inUse }) => {
    const image = images.resolve(digest)
    const used = (candidate: string): boolean => uses.has(candidate) || inUse(candidate)
    if (!used(image.digest) && pools.dropImage(image.digest)) await endings.drain()
    await images.remove(image.digest, { inUse: used })
    await runtime.forget(image.digest)
  }

  let closing: Promise<void> | undefined
  const shutDown = async (graceMs: number): Promise<void> => {
    clearInterval(shrinking)
    admission.close()
    await executions.close(graceMs)
    await pools.close()
    await endings.drain()
    await snapshots.close()
    await instances.close()
    quiet.close()
    await history.close()
    await cache.close()
    await tenantBlobs.close()
    await sync.close()
    if (!options.blobs) await store.close()
  }

  const close: Engine['close'] = ({ graceMs = DEFAULT_GRACE_MS } = {}) => {
    closing ??= shutDown(graceMs)
    return closing
  }

  return {
    execute: executions.execute,
    executions: executions.executions,
    instances,
    snapshots,
    blobs,
    tenantBlobs,
    cache: {
      stats: (tenant) => cache.stats(tenant),
      roots: () => cache.roots(),
      async invalidate(tenant, what) {
        const imageDigest = what.image === undefined ? undefined : findImage(images, what.image)?.digest
        return await cache.invalidate(tenant, { ...what, ...(imageDigest !== undefined && { imageDigest }) })
      },
    },
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
        if (executions.closing) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
        return await pools.prewarm(executions.kindOf(images.resolve(image), { runtime }, resources), count, signal)
      },
    },
    async usage(query) {
      await history.flush()
      return withStorage(await usageBetween(db, query), await snapshots.storedByKey(query.tenant))
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
