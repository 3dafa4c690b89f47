import type { CacheInvalidation, CacheStats, ExecutionResult } from '@bramble/protocol'

/**
 * Results by their input hash: in memory for those asked for often, in the blob store (names `results/<tenant>/<hash>`, large
 * outputs as blobs), and so on other nodes through its lower tier; through Redis at once, where there is one.
 *
 * Single flight: of equal executions that are asked for while one runs, all but the first wait for it. When it has no result to
 * share (it failed, it was cancelled), the next one runs. Only exit code 0 is kept. Results of one tenant are never
 * another's. Losing any tier loses time, never an execution: a cache that does not answer is a miss.
 */
export interface ResultCache {
  /** From memory alone, synchronously: the hot path. */
  peek(tenant: string, inputHash: string): CachedResult | undefined
  find(tenant: string, inputHash: string, options?: { signal?: AbortSignal }): Promise<CachedResult | undefined>
  /**
   * The kept result, or that of an equal execution that runs now, or what `execute` gives, which is then kept. `execute` is called
   * by one at a time for a hash; what it throws is for its own caller alone.
   */
  through(
    wish: CacheWish,
    execute: () => Promise<ExecutionResult>,
  ): Promise<{ result: ExecutionResult; source: CacheSource }>
  /** Forgets, on this node and on those that share with it. Resolves with how many this node knew. */
  invalidate(tenant: string, what: CacheInvalidation): Promise<number>
  stats(tenant?: string): CacheStats
  close(): Promise<void>
}

export type CacheSource = 'executed' | 'memory' | 'store' | 'shared' | 'joined'

export interface CacheWish {
  readonly tenant: string
  readonly inputHash: string
  readonly imageDigest: string
  readonly labels: Readonly<Record<string, string>>
  /** Undefined: until it is invalidated, or its place is needed. 0: it is not kept, but joined. */
  readonly ttlMs?: number | undefined
  readonly signal?: AbortSignal | undefined
}

export interface CachedResult {
  readonly result: ExecutionResult
  readonly createdAtMs: number
  readonly expiresAtMs: number | undefined
  readonly imageDigest: string
  readonly labels: Readonly<Record<string, string>>
}
