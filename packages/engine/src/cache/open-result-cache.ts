import type { BlobStore } from '@bramble/blobs'
import type { CacheInvalidation, CacheStats, ExecutionResult } from '@bramble/protocol'
import type { Clock, EngineNotice, Log } from '../options.ts'
import { createBreaker } from './breaker.ts'
import { createFlights, type Flights } from './flights.ts'
import { type Invalidation, openInvalidations } from './invalidations.ts'
import { isComplete, isKeepable } from './keepable.ts'
import { memoryResults } from './memory-results.ts'
import { asCached, jsonTailOf } from './prepared.ts'
import type { FindOptions, ResultCache, ThroughAnswer } from './result-cache.ts'
import {
  type CachedResult,
  type CacheLimits,
  type CacheSource,
  type CacheWish,
  DEFAULT_CACHE_LIMITS,
} from './result-cache.ts'
import { type GrantBlobs, openStoredResults } from './stored-results.ts'
import { within } from './within.ts'

export interface ResultCacheDeps {
  readonly store: BlobStore
  /** Of this node, the same after a restart. */
  readonly node: string
  readonly redisUrl?: string | undefined
  readonly limits?: Partial<CacheLimits> | undefined
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly grant: GrantBlobs
}

type Counts = Pick<CacheStats, 'hits' | 'misses' | 'sharedHits' | 'joined'>
/** What a flight gave: from a tier, or executed; `result` as its own caller gets it. */
interface Landed {
  readonly source: CacheSource
  readonly kept: CachedResult | undefined
  readonly result: ExecutionResult
}

interface Flying {
  readonly wish: CacheWish
  /** The newest invalidation that was known when it began. */
  seen: number
}

const MAX_COUNTED_TENANTS = 10_000
const keyOf = (tenant: string, inputHash: string): string => `${inputHash} ${tenant}`

export const openResultCache = async (deps: ResultCacheDeps): Promise<ResultCache> => {
  const { store, node, clock, log, notice, grant } = deps
  const limits: CacheLimits = { ...DEFAULT_CACHE_LIMITS, ...deps.limits }
  const memory = memoryResults({
    maxBytes: limits.maxMemoryBytes,
    maxEntries: limits.maxMemoryEntries,
    onEvicted: (count) => notice({ type: 'cacheRemoved', reason: 'evicted', count }),
  })
  const { refreshMs, maxAgeMs } = limits
  const invalidations = openInvalidations({ store, clock, log, refreshMs, keptMs: 2 * Math.max(maxAgeMs, YEAR_MS) })
  const flights: Flights<Landed> = createFlights()
  const flying = new Map<string, Flying>()
  const total = { hits: 0, misses: 0, sharedHits: 0, joined: 0 }
  const counted = new Map<string, Counts>()

  /** Forgets in memory what `one` holds for. */
  const apply = (one: Invalidation): string[] => {
    const { tenant } = one
    for (const [key, { wish, seen }] of flying)
      if (wish.tenant === tenant && !invalidations.isAlive(tenant, wish, seen)) flights.forget(key)
    const isDead = ({ result: { inputHash }, image, imageDigest, labels, seen }: CachedResult): boolean =>
      !invalidations.isAlive(tenant, { inputHash, image, imageDigest, labels }, seen)
    return memory.removeWhere(tenant, isDead)
  }
  let refreshing: Promise<void> | undefined
  const refreshAll = async (): Promise<void> => {
    for (const tenant of memory.tenants())
      for (const one of await invalidations.refresh(tenant, { force: true })) apply(one)
  }
  const refresh = (): void => {
    refreshing ??= refreshAll()
      .catch(() => notice({ type: 'cacheTier', tier: 'store' }))
      .finally(() => {
        refreshing = undefined
      })
  }

  // Its client is not small, and most nodes have no Redis.
  const redis =
    deps.redisUrl === undefined
      ? undefined
      : (await import('./redis-tier.ts')).openRedisTier({
          ...{ url: deps.redisUrl, waitMs: limits.redisWaitMs, clock, log, notice },
          onInvalidation: (one) => void (invalidations.learn(one) && apply(one)),
          onListening: refresh,
        })
  const breaker = createBreaker(clock, () => {
    log.warn({ store: store.name }, 'the store of cached results does not answer: it is not asked for a while')
    notice({ type: 'cacheTier', tier: 'store' })
  })
  const stored = openStoredResults({ store, node, redis, invalidations, limits, clock, log, notice, grant })

  const count = (tenant: string, source: CacheSource): void => {
    const of = counted.get(tenant) ?? { hits: 0, misses: 0, sharedHits: 0, joined: 0 }
    if (counted.size < MAX_COUNTED_TENANTS) counted.set(tenant, of)
    for (const sum of [total, of]) {
      if (source === 'executed') sum.misses++
      else if (source === 'joined') sum.joined++
      else sum.hits++
      if (source === 'shared') sum.sharedHits++
    }
    notice({ type: 'cache', source })
  }

  const isFresh = ({ createdAtMs, expiresAtMs }: CachedResult, age: number = Number.POSITIVE_INFINITY): boolean => {
    const now = clock.now()
    return now < expiresAtMs && now - createdAtMs < age
  }

  const inMemory = (tenant: string, inputHash: string, age?: number): CachedResult | undefined => {
    const entry = memory.get(tenant, inputHash)
    return entry && isFresh(entry, age) ? entry : undefined
  }

  const inTiers = async (tenant: string, inputHash: string, { signal, maxAgeMs: age }: FindOptions) => {
    if (breaker.open) return undefined
    const found = await within(limits.storeWaitMs, (late) => stored.load(tenant, inputHash, late), signal).catch(
      () => undefined,
    )
    signal?.throwIfAborted()
    if (found) breaker.succeeded()
    else breaker.failed()
    for (const one of found?.learned ?? []) apply(one)
    const entry = found?.entry
    if (!entry || !isFresh(entry, age)) return undefined
    memory.set(tenant, inputHash, entry)
    return { entry, shared: found.shared }
  }

  const keep = ({ wish, seen }: Flying, result: ExecutionResult): CachedResult | undefined => {
    if (!isKeepable(wish, result, limits.maxResultBytes)) return undefined
    const { tenant, inputHash, image, imageDigest, labels, ttlMs = limits.maxAgeMs } = wish
    const createdAtMs = clock.now()
    const shown = asCached(result)
    const about = { createdAtMs, expiresAtMs: createdAtMs + ttlMs, seen, image, imageDigest, labels }
    const entry: CachedResult = { result: shown, jsonTail: jsonTailOf(shown), ...about }
    if (!invalidations.isAlive(tenant, wish, seen)) return undefined
    memory.set(tenant, inputHash, entry)
    stored.save(tenant, entry)
    return entry
  }

  const fly = async (one: Flying, execute: Execute, signal: AbortSignal): Promise<Landed> => {
    const { wish } = one
    const { tenant, inputHash } = wish
    const found = wish.ttlMs === 0 ? undefined : await inTiers(tenant, inputHash, { signal, maxAgeMs: wish.ttlMs })
    if (found) return { source: found.shared ? 'shared' : 'store', kept: found.entry, result: found.entry.result }
    signal.throwIfAborted()
    // The look into the tiers may have told of invalidations.
    one.seen = invalidations.seen(tenant)
    const result = await execute(signal)
    return { source: 'executed', kept: keep(one, result), result }
  }

  const begin = (wish: CacheWish, execute: Execute): Promise<Landed> => {
    const key = keyOf(wish.tenant, wish.inputHash)
    const one: Flying = { wish, seen: invalidations.seen(wish.tenant) }
    const work = async (signal: AbortSignal): Promise<Landed> => {
      try {
        return await fly(one, execute, signal)
      } finally {
        if (flying.get(key) === one) flying.delete(key)
      }
    }
    flying.set(key, one)
    return flights.begin(key, work, wish.signal)
  }

  const through: ResultCache['through'] = async (wish, execute) => {
    const { tenant, inputHash, signal, ttlMs } = wish
    const key = keyOf(tenant, inputHash)
    for (;;) {
      signal?.throwIfAborted()
      const entry = inMemory(tenant, inputHash, ttlMs)
      if (entry) return answer(tenant, { source: 'memory', kept: entry, result: entry.result })
      const joined = flights.join(key, signal)
      if (!joined) return answer(tenant, await begin(wish, execute))
      // What it throws is for who began it.
      const landed = await joined.catch(() => signal?.throwIfAborted())
      if (!landed) continue
      if (landed.source !== 'executed') return answer(tenant, landed)
      if (isComplete(landed.result)) return answer(tenant, { ...landed, source: 'joined' })
    }
  }

  const answer = (tenant: string, { source, kept, result }: Landed): ThroughAnswer => {
    count(tenant, source)
    if (source === 'executed') return { result, source }
    return { result: kept?.result ?? asCached(result), source, kept }
  }

  const invalidate: ResultCache['invalidate'] = async (tenant, what) => {
    const one = invalidations.add(tenant, conditionsOf(what))
    const gone = new Set(apply(one))
    notice({ type: 'cacheRemoved', reason: 'invalidated', count: gone.size })
    await invalidations.publish(one)
    redis?.tell(one)
    for (const inputHash of await stored.removeDead(tenant, what.key)) gone.add(inputHash)
    return gone.size
  }

  const sweeping = setInterval(() => void sweep(), limits.sweepEveryMs).unref()
  let turns = 0
  // Where Redis tells of invalidations, the store is asked now and then only, for what Redis may have lost.
  const asking = setInterval(() => {
    if (!redis?.listening || turns++ % TURNS_WITH_REDIS === 0) refresh()
  }, limits.refreshMs).unref()
  const sweep = async (): Promise<void> => {
    const now = clock.now()
    const expired = memory.removeWhere(undefined, ({ expiresAtMs }) => expiresAtMs <= now).length
    if (expired > 0) notice({ type: 'cacheRemoved', reason: 'expired', count: expired })
    await stored.sweep().catch((error: unknown) => {
      log.warn({ err: error }, 'the store of cached results could not be swept')
    })
  }

  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    clearInterval(sweeping)
    clearInterval(asking)
    await refreshing
    await stored.close()
    await redis?.close()
  }

  return {
    peek(tenant, inputHash, age) {
      const entry = inMemory(tenant, inputHash, age)
      if (entry) count(tenant, 'memory')
      return entry
    },
    async find(tenant, inputHash, options = {}) {
      const entry = inMemory(tenant, inputHash, options.maxAgeMs)
      return entry ?? (await inTiers(tenant, inputHash, options))?.entry
    },
    through,
    running: (tenant, inputHash) => flights.has(keyOf(tenant, inputHash)),
    invalidate,
    stats: (tenant) => ({
      ...memory.totals(tenant),
      ...(tenant === undefined ? total : (counted.get(tenant) ?? { hits: 0, misses: 0, sharedHits: 0, joined: 0 })),
    }),
    roots: () => stored.roots(),
    settled: () => stored.settled(),
    close() {
      closed ??= closeOnce()
      return closed
    },
  }
}

type Execute = (signal: AbortSignal) => Promise<ExecutionResult>
const TURNS_WITH_REDIS = 6
const YEAR_MS = 366 * 24 * 3_600_000

const conditionsOf = ({ key, image, imageDigest, label }: CacheInvalidation & { readonly imageDigest?: string }) => ({
  ...(key !== undefined && { key }),
  ...(image !== undefined && { images: [...new Set([image, imageDigest ?? image])] }),
  ...(label !== undefined && { label }),
})
