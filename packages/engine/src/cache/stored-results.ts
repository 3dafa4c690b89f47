import type { BlobStore, NameOptions } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import type { Clock, EngineNotice, Log } from '../options.ts'
import type { Invalidation, Invalidations } from './invalidations.ts'
import { RESULTS, resultName, resultsOf } from './names.ts'
import type { RedisTier } from './redis-tier.ts'
import type { CachedResult, CacheLimits } from './result-cache.ts'
import { blobsOf, fromStored, parseStored, type StoredResult, toStored } from './stored-result.ts'

/** The tenant may use these blobs: a result of its own names them. Before the result is given to anyone. */
export type GrantBlobs = (
  tenant: string,
  blobs: readonly { hash: BlobHash; sizeBytes: number }[],
  expiresAtMs: number,
) => Promise<void>

/** Kept results in the tiers that outlive this process: Redis, where there is one, and the names of the blob store. */
export interface StoredResults {
  /** Checked. `learned`: invalidations that this node did not know. Throws what the store throws. */
  load(tenant: string, inputHash: string, signal: AbortSignal): Promise<Loaded>
  /** Written behind: nobody waits for it. */
  save(tenant: string, entry: CachedResult): void
  /** Removes what no result can be any more: of `inputHash`, or all that are invalidated. Returns their input hashes. */
  removeDead(tenant: string, inputHash?: string): Promise<string[]>
  sweep(): Promise<void>
  roots(): AsyncIterable<BlobHash>
  settled(): Promise<void>
  close(): Promise<void>
}

export interface Loaded {
  readonly entry: CachedResult | undefined
  readonly shared: boolean
  readonly learned: readonly Invalidation[]
}

export interface StoredResultsDeps {
  readonly store: BlobStore
  readonly node: string
  readonly redis: RedisTier | undefined
  readonly invalidations: Invalidations
  readonly limits: CacheLimits
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly grant: GrantBlobs
}

/** Values that are read while an invalidation waits for what it removes. */
const MAX_REMOVED_AT_ONCE = 10_000
const SWEEPS_A_WIDE_ONE = 24
const CLOSE_WAIT_MS = 5_000
const NOTHING: Loaded = { entry: undefined, shared: false, learned: [] }

export const openStoredResults = (deps: StoredResultsDeps): StoredResults => {
  const { store, node, redis, invalidations, limits, clock, log, notice, grant } = deps
  const { names } = store
  const pending = new Set<Promise<void>>()
  let pendingBytes = 0
  const closing = new AbortController()

  const isAlive = (tenant: string, stored: StoredResult): boolean =>
    clock.now() < stored.expiresAtMs && invalidations.isAlive(tenant, stored, stored.seen)

  /** What is there under the name of a result and is none: it would be found again and again. */
  const removeDamaged = async (tenant: string, inputHash: string): Promise<void> => {
    log.warn({ tenant, inputHash }, 'a cached result was not what it said it was, and was removed')
    notice({ type: 'cacheRemoved', reason: 'damaged', count: 1 })
    redis?.remove(tenant, inputHash)
    await names.remove(resultName(tenant, inputHash))
  }

  /** `undefined`: it is none, or not whole. */
  const open = async (tenant: string, inputHash: string, value: Uint8Array, signal: AbortSignal) => {
    const stored = parseStored(value)
    if (stored?.tenant !== tenant || stored.inputHash !== inputHash) return undefined
    try {
      const entry = await fromStored(store, stored, signal)
      return entry && { stored, entry }
    } catch (error) {
      // Its blobs are gone, or damaged everywhere: that is no failure of the store.
      const code = codeOf(error)
      if (code === 'blob_not_found' || code === 'blob_corrupt') return undefined
      throw error
    }
  }

  const load: StoredResults['load'] = async (tenant, inputHash, signal) => {
    const refreshing = invalidations.refresh(tenant, { signal })
    refreshing.catch(() => {})
    const fast = await redis?.get(tenant, inputHash)
    const fromRedis = fast && (await open(tenant, inputHash, fast, signal))
    if (fast && !fromRedis) redis?.remove(tenant, inputHash)
    const value = fromRedis ? undefined : await names.get(resultName(tenant, inputHash), { signal })
    const learned = await refreshing
    if (!fromRedis && !value) return { ...NOTHING, learned }
    const found = fromRedis ?? (value && (await open(tenant, inputHash, value, signal)))
    if (!found) {
      await removeDamaged(tenant, inputHash)
      return { ...NOTHING, learned }
    }
    const { stored, entry } = found
    if (!isAlive(tenant, stored)) {
      await names.remove(resultName(tenant, inputHash), { signal })
      return { ...NOTHING, learned }
    }
    const { outputs } = blobsOf(stored)
    if (outputs.length > 0) await grant(tenant, outputs, stored.expiresAtMs)
    if (!fromRedis && value) redis?.set(tenant, inputHash, value, stored.expiresAtMs - clock.now())
    return { entry, shared: stored.node !== node, learned }
  }

  const write = async (tenant: string, entry: CachedResult): Promise<void> => {
    const { value, attached } = toStored(entry, { tenant, node })
    const { inputHash } = value
    const bytes = Buffer.from(JSON.stringify(value))
    const { outputs } = blobsOf(value)
    const needed = attached.length + outputs.length > 0
    await using lease = needed ? await store.leases.acquire() : undefined
    for (const one of attached)
      await store.put(one.bytes, { expect: one.hash, sizeBytes: one.bytes.length, lease, signal: closing.signal })
    // Nothing that a collection removes meanwhile may be named.
    if (outputs.length > 0) await lease?.hold(outputs.map(({ hash }) => hash))
    if (!isAlive(tenant, value)) return
    await names.set(resultName(tenant, inputHash), bytes, { signal: closing.signal })
    redis?.set(tenant, inputHash, bytes, value.expiresAtMs - clock.now())
    // It was invalidated while it was written: whoever did that may have looked before it was there.
    if (!isAlive(tenant, value)) await names.remove(resultName(tenant, inputHash))
  }

  const each = async function* (prefix: string, options: NameOptions) {
    for await (const name of names.list(prefix, options)) {
      const value = await names.get(name, options)
      if (value) yield { name, stored: parseStored(value) }
    }
  }

  // What is elsewhere is dead wherever it is read: an invalidation need not wait for it.
  const removeDead: StoredResults['removeDead'] = async (tenant, inputHash) => {
    const gone: string[] = []
    let looked = 0
    const prefix = inputHash === undefined ? resultsOf(tenant) : resultName(tenant, inputHash)
    for await (const { name, stored } of each(prefix, { reach: 'local' })) {
      if (looked++ === MAX_REMOVED_AT_ONCE) break
      if (stored?.tenant === tenant && isAlive(tenant, stored)) continue
      await names.remove(name)
      if (stored) redis?.remove(tenant, stored.inputHash)
      gone.push(name.slice(resultsOf(tenant).length))
    }
    return gone
  }

  let sweeps = 0
  const sweep = async (): Promise<void> => {
    const { signal } = closing
    // What only nodes that are gone have kept is looked at now and then.
    const reach = sweeps++ % SWEEPS_A_WIDE_ONE === 0 ? 'recent' : 'local'
    const tenants = new Set<string>()
    const kept: { name: string; createdAtMs: number }[] = []
    for await (const { name, stored } of each(RESULTS, { signal, reach })) {
      if (stored && !tenants.has(stored.tenant)) await invalidations.refresh(stored.tenant, { signal })
      if (stored) tenants.add(stored.tenant)
      const inPlace = stored && name === resultName(stored.tenant, stored.inputHash)
      if (inPlace && isAlive(stored.tenant, stored)) kept.push({ name, createdAtMs: stored.createdAtMs })
      else await names.remove(name, { signal })
    }
    kept.sort((left, right) => left.createdAtMs - right.createdAtMs)
    for (const { name } of kept.slice(0, Math.max(0, kept.length - limits.maxStoredResults)))
      await names.remove(name, { signal })
    for (const tenant of tenants) await invalidations.sweep(tenant)
  }

  return {
    load,
    save(tenant, entry) {
      const bytes = entry.jsonTail.length
      if (closing.signal.aborted || pendingBytes + bytes > limits.maxPendingBytes) return
      pendingBytes += bytes
      const writing = write(tenant, entry)
        .catch((error: unknown) => {
          log.warn({ err: error, inputHash: entry.result.inputHash }, 'a result could not be stored')
          notice({ type: 'cacheTier', tier: 'store' })
        })
        .finally(() => {
          pendingBytes -= bytes
          pending.delete(writing)
        })
      pending.add(writing)
    },
    removeDead,
    sweep,
    async *roots() {
      // A collection removes what lies here; what only others have need not come here for it.
      for await (const { stored } of each(RESULTS, { reach: 'local' })) {
        if (!stored || clock.now() >= stored.expiresAtMs) continue
        const { texts, outputs } = blobsOf(stored)
        yield* texts
        for (const { hash } of outputs) yield hash
      }
    },
    async settled() {
      while (pending.size > 0) await Promise.all(pending)
    },
    async close() {
      const timer = setTimeout(() => closing.abort(new Error('the cache was closed')), CLOSE_WAIT_MS)
      await Promise.all(pending)
      clearTimeout(timer)
      closing.abort(new Error('the cache was closed'))
    },
  }
}

const codeOf = (error: unknown): unknown =>
  typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
