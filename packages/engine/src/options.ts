import type { BlobStore } from '@bramble/blobs'
import type { ExecutionStatus, SnapshotOrigin, Timings } from '@bramble/protocol'
import type { ImageStore, Runtime } from '@bramble/runtime'
import type { CacheLimits, CacheSource } from './cache/result-cache.ts'
import type { EngineLimits } from './engine.ts'
import type { SyncLimits } from './sync/open-sync.ts'

export interface OpenEngineOptions {
  /** Where the engine keeps its database. One engine at a time: a second one is refused with `conflict`. */
  readonly dataDirectory: string
  /** What makes sandboxes. The first is the default; a spec's `runtime` and `isolation` choose among them. */
  readonly runtimes: readonly Runtime[]
  /** Runtimes that this host lacks, with the reason: for `status()` and for the `unsupported` of who asks for one. */
  readonly unavailable?: readonly { name: string; reason: string }[]
  readonly images: ImageStore
  /** Closed by the caller. Absent: one on the local disk, in `blobs` of the data directory. */
  readonly blobs?: BlobStore
  /** A Redis that nodes share their cached results through, beside the store (`redis://`, `rediss://`). */
  readonly redisUrl?: string | undefined
  readonly limits?: Partial<EngineLimits>
  /** How nodes that share a store keep each other warm. */
  readonly syncLimits?: Partial<SyncLimits>
  readonly cacheLimits?: Partial<CacheLimits>
  /** How much more memory sandboxes may be promised than the host has. Default 4. */
  readonly memoryOvercommit?: number
  readonly clock?: Clock
  readonly log?: Log
  /** Called synchronously, once per notice; it must be quick and must not throw. For metrics. */
  readonly onNotice?: (notice: EngineNotice) => void
}

/** Times come from here, so that a test can move them. Timers are the process's own. */
export interface Clock {
  /** Milliseconds since 1970. */
  now(): number
  /** Milliseconds that never go back, with fractions. */
  monotonicMs(): number
}

export const systemClock: Clock = { now: Date.now, monotonicMs: () => performance.now() }

/** The part of pino's logger that the engine uses. */
export interface Log {
  info(data: object, message: string): void
  warn(data: object, message: string): void
  error(data: object, message: string): void
}

const ignore = (): void => {}
export const silentLog: Log = { info: ignore, warn: ignore, error: ignore }

/** What happened, for whoever counts. */
export type EngineNotice =
  | { readonly type: 'queued' }
  | { readonly type: 'refused'; readonly code: string }
  | { readonly type: 'pool'; readonly hit: boolean; readonly image: string; readonly runtime: string }
  | { readonly type: 'started'; readonly runtime: string; readonly queuedMs: number; readonly startMs: number }
  | {
      readonly type: 'finished'
      readonly status: ExecutionStatus
      readonly runtime: string
      readonly timings: Timings
      readonly cpuMs: number
    }
  /** An execution that ended without a result. */
  | { readonly type: 'lost'; readonly code: string }
  | { readonly type: 'sandboxMade'; readonly runtime: string; readonly durationMs: number }
  | { readonly type: 'sandboxNotMade'; readonly runtime: string }
  | { readonly type: 'sandboxDestroyed'; readonly runtime: string; readonly durationMs: number }
  | { readonly type: 'sandboxNotDestroyed'; readonly runtime: string }
  | { readonly type: 'historyFlushed'; readonly records: number; readonly durationMs: number }
  | { readonly type: 'historyNotFlushed' }
  /** A snapshot is whole. `frozenMs`: how long its sandbox stood still; not there where none did (a merge, an import). */
  | { readonly type: 'snapshot'; readonly origin: SnapshotOrigin; readonly frozenMs?: number }
  /** A branch runs; `durationMs` from the request for it. */
  | { readonly type: 'branch'; readonly durationMs: number }
  /** A request of mode `cached` was answered. */
  | { readonly type: 'cache'; readonly source: CacheSource }
  | { readonly type: 'cacheRemoved'; readonly reason: CacheRemoval; readonly count: number }
  /** A tier of the cache does not answer. */
  | { readonly type: 'cacheTier'; readonly tier: 'redis' | 'store' }
  | { readonly type: 'instance'; readonly change: InstanceChangeKind; readonly runtime: string }

/** `damaged`: it was not what it said it was. */
export type CacheRemoval = 'evicted' | 'expired' | 'invalidated' | 'damaged'

/** `ended`: its sandbox ended by itself. */
export type InstanceChangeKind = 'started' | 'stopped' | 'paused' | 'resumed' | 'ended' | 'deleted' | 'attached'
