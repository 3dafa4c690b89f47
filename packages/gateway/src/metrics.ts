import type { StoreEvent } from '@bramble/blobs'
import type { CacheSource, Engine, EngineNotice } from '@bramble/engine'
import { createHttpMetrics, type HttpMetrics } from '@bramble/http'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { LiveRegistry } from './live/live-registry.ts'

/**
 * What a node counts. It is made before the engine, which tells it what happens (`openEngine({ onNotice: metrics.notice })`),
 * and before the gateway, which shows it.
 */
export interface Metrics extends Pick<HttpMetrics, 'request'> {
  /** Counts what the engine says happened. */
  notice(notice: EngineNotice): void
  /** Counts what passes between the store and the object store behind it. */
  store(event: StoreEvent): void
  /** Counts bytes of messages of WebSockets. */
  liveBytes(bytes: number): void
  /** The text format of Prometheus; what an engine knows at this moment is asked of it, and which WebSockets are open. */
  text(engine: Engine, live: Pick<LiveRegistry, 'open'>): Promise<string>
}

const PHASE_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5, 30]

export const createMetrics = (options: { version: string }): Metrics => {
  const http = createHttpMetrics(options)
  const registers = [http.registry]
  const liveBytes = new Counter({
    name: 'live_bytes_total',
    help: 'Bytes of messages of WebSockets, both ways',
    registers,
  })
  const notice = noticeCounter(registers)
  const state = stateGauges(registers)
  const store = storeGauges(registers)
  const countStore = storeCounter(registers)

  return {
    notice,
    store: countStore,
    request: http.request,
    liveBytes: (bytes) => liveBytes.inc(bytes),
    text: async (engine, live) => {
      state(engine, live)
      await store(engine)
      return http.text()
    },
  }
}

const noticeCounter = (registers: Registry[]): ((notice: EngineNotice) => void) => {
  const count = <const Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name, help, labelNames, registers })
  const time = (name: string, help: string) =>
    new Histogram({ name, help, labelNames: ['runtime'], buckets: PHASE_SECONDS, registers })

  const executions = count('executions_total', 'Executions that ended, by status', 'status', 'runtime')
  const refused = count('executions_refused_total', 'Executions that were not admitted', 'code')
  const lost = count('executions_lost_total', 'Executions that ended without a result', 'code')
  const hits = count('pool_hits_total', 'Executions that found a sandbox ready', 'image', 'runtime')
  const misses = count('pool_misses_total', 'Executions that had to wait for theirs', 'image', 'runtime')
  const failures = count('sandbox_failures_total', 'Sandboxes that could not be made or destroyed', 'what', 'runtime')
  const changes = count('instance_changes_total', 'What happened to instances', 'change', 'runtime')
  const flushFailures = count('history_flush_failures_total', 'Writes of the history that failed')
  const cached = count(
    'bramble_cache_requests_total',
    'Executions of mode `cached`, by where the result was',
    'outcome',
  )
  const removed = count('bramble_cache_removed_total', 'Cached results that were removed', 'reason')
  const tiers = count('bramble_cache_tier_failures_total', 'Failures of what is below the cache in memory', 'tier')
  const snapshots = count('bramble_snapshots_total', 'Snapshots that were taken, by what of', 'origin')
  const plainTime = (name: string, help: string) => new Histogram({ name, help, buckets: PHASE_SECONDS, registers })
  const frozen = plainTime('bramble_snapshot_frozen_seconds', 'How long a sandbox stood still for its snapshot')
  const branched = plainTime('bramble_branch_seconds', 'Making a branch, until its agent answers')
  const queued = time('execution_queued_seconds', 'Waiting for a place on the node')
  const starts = time('execution_start_seconds', 'Getting a sandbox for an execution, from the pool or made')
  const runs = time('execution_run_seconds', 'Running the command')
  const made = time('sandbox_create_duration_seconds', 'Making a sandbox, until its agent answers')
  const destroyed = time('sandbox_destroy_duration_seconds', 'Destroying a sandbox')

  return (notice) => {
    switch (notice.type) {
      case 'queued':
      case 'historyFlushed':
        return
      case 'refused':
        return refused.inc({ code: notice.code })
      case 'lost':
        return lost.inc({ code: notice.code })
      case 'pool':
        return (notice.hit ? hits : misses).inc({ image: notice.image, runtime: notice.runtime })
      case 'started':
        queued.observe({ runtime: notice.runtime }, notice.queuedMs / 1000)
        return starts.observe({ runtime: notice.runtime }, notice.startMs / 1000)
      case 'finished':
        executions.inc({ status: notice.status, runtime: notice.runtime })
        return runs.observe({ runtime: notice.runtime }, notice.timings.execMs / 1000)
      case 'sandboxMade':
        return made.observe({ runtime: notice.runtime }, notice.durationMs / 1000)
      case 'sandboxDestroyed':
        return destroyed.observe({ runtime: notice.runtime }, notice.durationMs / 1000)
      case 'sandboxNotMade':
        return failures.inc({ what: 'create', runtime: notice.runtime })
      case 'sandboxNotDestroyed':
        return failures.inc({ what: 'destroy', runtime: notice.runtime })
      case 'historyNotFlushed':
        return flushFailures.inc()
      case 'snapshot':
        snapshots.inc({ origin: notice.origin })
        if (notice.frozenMs !== undefined) frozen.observe(notice.frozenMs / 1000)
        return
      case 'branch':
        return branched.observe(notice.durationMs / 1000)
      case 'cache':
        return cached.inc({ outcome: CACHE_OUTCOMES[notice.source] })
      case 'cacheRemoved':
        return removed.inc({ reason: notice.reason }, notice.count)
      case 'cacheTier':
        return tiers.inc({ tier: notice.tier })
      case 'instance':
        return changes.inc({ change: notice.change, runtime: notice.runtime })
      default:
        notice satisfies never
    }
  }
}

const CACHE_OUTCOMES = {
  memory: 'hit_memory',
  store: 'hit_store',
  shared: 'hit_shared',
  joined: 'joined',
  executed: 'miss',
} as const satisfies Record<CacheSource, string>

/** Set when someone asks, so that they cost nothing in between. */
const stateGauges = (registers: Registry[]): ((engine: Engine, live: Pick<LiveRegistry, 'open'>) => void) => {
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers })
  const running = gauge('executions_running', 'Executions that run now')
  const queued = gauge('queue_length', 'Executions that wait for a place')
  const pooled = gauge('sandboxes_pooled', 'Sandboxes that wait in pools')
  const reserved = gauge('reserved_memory_bytes', 'Memory that sandboxes may use by their limits')
  const perPool = (name: string, help: string) => new Gauge({ name, help, labelNames: ['image', 'runtime'], registers })
  const ready = perPool('pool_ready', 'Sandboxes ready in a pool')
  const starting = perPool('pool_starting', 'Sandboxes being made for a pool')
  const target = perPool('pool_target', 'Sandboxes a pool aims at')

  const cacheEntries = gauge('bramble_cache_entries', 'Results of mode `cached` in memory')
  const cacheBytes = gauge('bramble_cache_bytes', 'What they take there')
  const instances = new Gauge({ name: 'instances', help: 'Instances by status', labelNames: ['status'], registers })
  const open = new Gauge({
    name: 'live_connections',
    help: 'WebSockets that are open',
    labelNames: ['kind'],
    registers,
  })

  return (engine, live) => {
    const status = engine.status()
    const cached = engine.cache.stats()
    cacheEntries.set(cached.entries)
    cacheBytes.set(cached.sizeBytes)
    for (const [name, count] of Object.entries(status.instances)) instances.set({ status: name }, count)
    for (const [kind, count] of Object.entries(live.open())) open.set({ kind }, count)
    running.set(status.running)
    queued.set(status.queued)
    pooled.set(status.pooled)
    reserved.set(status.reservedMemoryMb * 1024 * 1024)
    for (const perKind of [ready, starting, target]) perKind.reset()
    for (const pool of engine.pools.list()) {
      // Pools that differ in their resources only are counted together.
      const labels = { image: pool.image, runtime: pool.runtime }
      ready.inc(labels, pool.ready)
      starting.inc(labels, pool.starting)
      target.inc(labels, pool.target)
    }
  }
}

const storeCounter = (registers: Registry[]): ((event: StoreEvent) => void) => {
  const count = <const Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name, help, labelNames, registers })
  const bytes = count('bramble_object_store_bytes_total', 'Bytes to and from the object store', 'direction')
  const requests = count('bramble_object_store_requests_total', 'Requests to the object store, by outcome', 'outcome')
  const blobs = count('bramble_store_moved_blobs_total', 'Blobs that were uploaded, or fetched', 'direction')
  const healed = count('bramble_store_healed_total', 'Damaged copies that were replaced from the other tier', 'tier')
  const lost = count('bramble_store_lost_total', 'Blobs and names of which no good copy is left')
  const failed = count('bramble_store_failed_uploads_total', 'Uploads that failed, and are tried again')
  return (event) => {
    switch (event.kind) {
      case 'sent':
      case 'received':
        return bytes.inc({ direction: event.kind }, event.bytes)
      case 'request':
        return requests.inc({ outcome: event.failure ?? 'answered' })
      case 'uploaded':
      case 'fetched':
        return blobs.inc({ direction: event.kind })
      case 'healed':
        return healed.inc({ tier: event.tier })
      case 'lost':
        return lost.inc()
      case 'failed':
        return failed.inc()
      case 'available':
      case 'unavailable':
        // `bramble_store_lower_tier_available` tells that.
        return
      default:
        event satisfies never
    }
  }
}

/** Only of a store that counts as it goes: nobody lists one for a scrape. */
const storeGauges = (registers: Registry[]): ((engine: Engine) => Promise<void>) => {
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers })
  const blobs = gauge('bramble_store_blobs', 'Blobs in the store of this node')
  const stored = gauge('bramble_store_bytes', 'What they take, after compression')
  const uploads = gauge('bramble_store_pending_uploads', 'Blobs that wait to go to the lower tier')
  const uploadBytes = gauge('bramble_store_pending_bytes', 'What those take')
  const available = gauge('bramble_store_lower_tier_available', 'Whether the lower tier answers')
  return async (engine) => {
    // A store that does not answer leaves the last that was known.
    const stats = await engine.blobs.stats?.().catch(() => undefined)
    if (stats === undefined) return
    blobs.set(stats.blobs)
    stored.set(stats.storedBytes)
    uploads.set(stats.pendingUploads)
    uploadBytes.set(stats.pendingBytes)
    if (stats.lowerTier) available.set(stats.lowerTier.available ? 1 : 0)
  }
}
