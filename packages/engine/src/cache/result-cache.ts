import type { BlobHash, CacheInvalidation, CacheStats, ExecutionResult } from '@bramble/protocol'

/**
 * Results by their input hash: in memory for those asked for often, in the blob store (names `results/<tenant>/<hash>`, large
 * outputs as blobs), and so on other nodes through its lower tier; through Redis at once, where there is one.
 *
 * Single flight: of equal executions that are asked for while one runs, all but the first wait for it. It goes on while anyone
 * waits, whoever began it, and is cancelled when nobody does. When it has no result to share (it threw, it was cancelled, its
 * sandbox broke), the next one runs. What a command that ran to its end gave is shared with those who waited, whatever its exit
 * code; kept is only exit code 0, unless failures are asked for. What was truncated, timed out, was cancelled or ran out of
 * memory is never kept.
 *
 * Results of one tenant are never another's. Losing any tier loses time, never an execution: a cache that does not answer is a
 * miss, and what a tier gives is checked (`stored-result.ts`); what is not right is removed.
 *
 * Invalidation. On this node it holds when `invalidate` resolves, also for executions that run meanwhile: their results go to
 * those who wait, and are not kept. Other nodes of the same store see it at once through Redis, else within `refreshMs`.
 */
export interface ResultCache {
  /** From memory alone, synchronously: the hot path. */
  peek(tenant: string, inputHash: string, maxAgeMs?: number): CachedResult | undefined
  /** From memory or a tier. */
  find(tenant: string, inputHash: string, options?: FindOptions): Promise<CachedResult | undefined>
  /**
   * The kept result, or that of an equal execution that runs now, or what `execute` gives, which is then kept. `execute` is called
   * by one at a time for a hash; what it throws is for its own caller alone. Its signal is aborted when nobody waits any more.
   * Rejects with the reason of the wish's signal as soon as that is aborted.
   */
  through(wish: CacheWish, execute: (signal: AbortSignal) => Promise<ExecutionResult>): Promise<ThroughAnswer>
  /** Whether `through` would wait for an execution that has begun. */
  running(tenant: string, inputHash: string): boolean
  /**
   * Forgets. Resolves with how many this node, or a tier, knew. Rejects with what the store says where it could not be told:
   * this node has forgotten then, others have not.
   */
  invalidate(tenant: string, what: CacheInvalidation & { readonly imageDigest?: string }): Promise<number>
  /** Of what is in memory; the counts are since the start. */
  stats(tenant?: string): CacheStats
  /** The blobs that kept results name, for a collection. */
  roots(): AsyncIterable<BlobHash>
  /** Resolves when what was kept so far is stored. */
  settled(): Promise<void>
  close(): Promise<void>
}

export interface FindOptions {
  readonly signal?: AbortSignal | undefined
  /** An older one is none. */
  readonly maxAgeMs?: number | undefined
}

export type CacheSource = 'executed' | 'memory' | 'store' | 'shared' | 'joined'

/** `kept`: where the result came from the cache, what the cache has of it. */
export interface ThroughAnswer {
  readonly result: ExecutionResult
  readonly source: CacheSource
  readonly kept?: CachedResult | undefined
}

export interface CacheWish {
  readonly tenant: string
  readonly inputHash: string
  readonly imageDigest: string
  /** The image as it was asked for. */
  readonly image: string
  readonly labels: Readonly<Record<string, string>>
  /** How old a result may be, and how long this one is kept. Undefined: until it is invalidated, or its place is needed. */
  readonly ttlMs?: number | undefined
  /** Exit codes other than 0 are kept too. */
  readonly failures?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

export interface CachedResult {
  /** As it is answered, but for `id`, `timings`, `startedAt` and `finishedAt`. */
  readonly result: ExecutionResult
  /** The end of its JSON, after the members that each answer has for itself. */
  readonly jsonTail: string
  readonly createdAtMs: number
  readonly expiresAtMs: number
  /** The newest invalidation that its node knew when the execution began. */
  readonly seen: number
  readonly imageDigest: string
  readonly image: string
  readonly labels: Readonly<Record<string, string>>
}

/** Every bound of the cache. */
export interface CacheLimits {
  /** Results kept in memory. */
  readonly maxMemoryBytes: number
  readonly maxMemoryEntries: number
  /** A result whose texts are larger is not kept. */
  readonly maxResultBytes: number
  /** Results kept in the store; past it the oldest go, at the next sweep. */
  readonly maxStoredResults: number
  /** Results on their way to the store, at most; past it they stay in memory alone. */
  readonly maxPendingBytes: number
  /** How long a result without a time to live is kept. */
  readonly maxAgeMs: number
  /** How long a miss may wait for the store, and for Redis. */
  readonly storeWaitMs: number
  readonly redisWaitMs: number
  /** How old the knowledge of other nodes' invalidations may be. */
  readonly refreshMs: number
  readonly sweepEveryMs: number
}

const MIB = 1024 * 1024

export const DEFAULT_CACHE_LIMITS: CacheLimits = {
  maxMemoryBytes: 128 * MIB,
  maxMemoryEntries: 50_000,
  maxResultBytes: 16 * MIB,
  maxStoredResults: 100_000,
  maxPendingBytes: 64 * MIB,
  maxAgeMs: 30 * 24 * 3_600_000,
  storeWaitMs: 500,
  redisWaitMs: 5,
  refreshMs: 10_000,
  sweepEveryMs: 3_600_000,
}
