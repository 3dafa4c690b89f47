import type { BlobStore } from '@bramble/blobs'
import type {
  ExecutionId,
  ExecutionPhase,
  ExecutionRecord,
  ExecutionResult,
  ExecutionSpec,
  InstanceStatus,
  Pool,
  PrewarmRequest,
  Problem,
  Quota,
  UsageRow,
} from '@bramble/protocol'
import type { ImageStore } from '@bramble/runtime'
import type { TenantBlobs } from './blobs/tenant-blobs.ts'
import type { ResultCache } from './cache/result-cache.ts'
import type { Instances } from './instances/instances.ts'
import type { Snapshots } from './snapshots/snapshots.ts'
import type { Volumes } from './volumes/volumes.ts'

/**
 * Runs executions on one node: admits them, takes a sandbox from a warm pool or makes one, runs the command by the
 * agent, and gives the result. It knows no HTTP.
 *
 * Lifecycle of an execution: `queued` until it is admitted (a bounded queue, fair between tenants), then `running` until
 * a result. Its sandbox is its own, never used before and never again; it is destroyed in the background after the result.
 *
 * Durability. A result is the caller's the moment it is given. History and usage are written behind, in groups; a crash
 * loses at most the last group (`historyFlushMs`).
 *
 * Errors are `BrambleError`s: `queue_full` and `quota_exceeded` with `retryAfterMs`, `image_not_found`, `unsupported`,
 * `sandbox_failed`, `shutting_down`, `not_found`.
 */
export interface Engine extends AsyncDisposable {
  /**
   * Starts an execution. What is wrong with the request itself (unknown image, a mode this node lacks, a full queue)
   * throws here, before anything runs.
   */
  execute(spec: ExecutionSpec, context: ExecuteContext): Execution
  readonly executions: {
    get(id: ExecutionId, tenant: string): Promise<ExecutionRecord>
    list(query: ExecutionQuery): Promise<{ items: ExecutionRecord[]; nextCursor: string | null }>
    /** Cancels what still runs; resolves with the record once it has ended. One that has ended is left as it is. */
    cancel(id: ExecutionId, tenant: string): Promise<ExecutionRecord>
    /**
     * The kept output, then what comes, until the end: for anyone, any number of times, while the record is kept. With
     * `follow: false` it waits for nothing, and of what still runs it tells no end.
     */
    logs(
      id: ExecutionId,
      tenant: string,
      options?: { signal?: AbortSignal; follow?: boolean },
    ): AsyncIterable<EngineEvent>
  }
  readonly instances: Instances
  readonly snapshots: Snapshots
  /** Where snapshots, cached results and large inputs are. */
  readonly blobs: BlobStore
  /** What each tenant may name of them. */
  readonly tenantBlobs: TenantBlobs
  /** Results of mode `cached`. `image`: a name or digest. */
  readonly cache: Pick<ResultCache, 'stats' | 'invalidate' | 'roots'>
  /** Named volumes and dependency caches; not there where no runtime keeps any. */
  readonly volumes?: Volumes
  readonly images: ImageStore
  readonly pools: {
    list(): Pool[]
    /** Sets the least number of ready sandboxes of that kind, and resolves when they are ready. */
    prewarm(request: PrewarmRequest, options?: { signal?: AbortSignal }): Promise<Pool>
  }
  usage(query: { tenant?: string; since: Date; until: Date }): Promise<UsageRow[]>
  status(): EngineStatus
  /**
   * Admits nothing more, waits up to `graceMs` for what runs, cancels the rest, destroys their sandboxes, closes. Instances
   * run on; the next engine of the same directory takes them over.
   */
  close(options?: { graceMs?: number }): Promise<void>
}

/** On whose behalf, with what bounds. */
export interface ExecuteContext {
  readonly tenant: string
  readonly keyId: string
  readonly quota?: Quota
  /** Aborting cancels the execution: the command is killed, the result's status is `cancelled`. */
  readonly signal?: AbortSignal
  /**
   * True: events carry all output, at the pace of whoever iterates (back-pressure reaches the command). False: output
   * past `maxOutputBytes` is thrown away in the sandbox.
   */
  readonly stream?: boolean
}

/** One execution. `result` settles in every case; iterating is for `stream: true`, once. */
export interface Execution extends AsyncIterable<EngineEvent> {
  readonly id: ExecutionId
  /** Rejects only where there is no result: the sandbox could not be made, the queue was left by `close`. */
  readonly result: Promise<ExecutionResult>
  /** The result as JSON, where it is there already and need not be written anew: that of a hit of mode `cached`. */
  json?(): string
  cancel(): void
}

/** `ExecutionEvent` of the protocol, with bytes for output instead of text. */
export type EngineEvent =
  | { readonly type: 'queued'; readonly id: ExecutionId }
  | { readonly type: 'started'; readonly id: ExecutionId; readonly runtime: string }
  | { readonly type: 'stdout' | 'stderr'; readonly data: Uint8Array }
  | { readonly type: 'exit'; readonly code: number | null; readonly signal?: string }
  | { readonly type: 'result'; readonly result: ExecutionResult }
  | { readonly type: 'error'; readonly error: Problem }

export interface ExecutionQuery {
  readonly tenant: string
  readonly limit: number
  readonly cursor?: string
  readonly status?: ExecutionPhase
  /** `name=value`, or `name` for any value. */
  readonly label?: string
}

export interface EngineStatus {
  readonly queued: number
  readonly running: number
  readonly pooled: number
  readonly reservedMemoryMb: number
  readonly instances: Readonly<Record<InstanceStatus, number>>
  readonly runtimes: readonly { name: string; available: boolean; reason?: string }[]
}

/** Every bound of an engine, with its unit in its name. Defaults: `defaultEngineLimits`. */
export interface EngineLimits {
  /** Executions at once on this node. */
  readonly maxRunning: number
  /** Executions waiting for a place. Past it: `queue_full`. One tenant holds at most three quarters of it. */
  readonly maxQueued: number
  /** Executions of one tenant that wait because a quota is used up. Past it: `quota_exceeded`. */
  readonly maxQueuedOverQuota: number
  /** The memory limits of all sandboxes of the node together, in MiB. */
  readonly maxMemoryMb: number
  /** Memory that pooled sandboxes may reserve by their limits, in MiB. */
  readonly maxPooledMemoryMb: number
  /** Sandboxes waiting in all pools together. */
  readonly maxPooled: number
  /** Kinds of sandbox (image, resources, runtime) that have a pool at once. */
  readonly maxPools: number
  /** Sandboxes kept ready of the default image with the default resources, whatever the demand. */
  readonly minReady: number
  /** Sandboxes being made at once. */
  readonly maxStarting: number
  /** Sandboxes being destroyed at once. */
  readonly maxDestroying: number
  /** Used sandboxes that are not gone yet. Past it nothing more is admitted until some are. */
  readonly maxEnding: number
  /** How long making one sandbox may take. */
  readonly startTimeoutMs: number
  /** How long a killed command may take to report its end before its sandbox is destroyed under it. */
  readonly killGraceMs: number
  /** How long writing the input files, and reading the declared outputs, may take. */
  readonly filesTimeoutMs: number
  /** The same where files come from blobs, or outputs may become some. */
  readonly blobFilesTimeoutMs: number
  /** Output kept in memory for all that runs, beyond 1 MiB for each stream. What does not fit is truncated, and said so. */
  readonly maxKeptOutputBytes: number
  /** Records of executions kept on disk. */
  readonly maxHistory: number
  /** Bytes of results kept on disk with those records. */
  readonly maxHistoryBytes: number
  readonly historyFlushMs: number
  /** Instances that run or are paused, at once. */
  readonly maxRunningInstances: number
  /** Instances in all, stopped ones included. */
  readonly maxInstances: number
  /** Of those, one tenant's, stopped ones too: each has a layer on the node's disk. */
  readonly maxTenantInstances: number
  /** How long an instance may wait for its place before it is refused. */
  readonly instanceWaitMs: number
  /** How long the processes of an instance that is stopped may take to end after SIGTERM. */
  readonly stopGraceMs: number
  /** Disk that states of snapshots may take beside their blobs, so that they are continued at once. */
  readonly maxSealBytes: number
  /** How long a reader of a full stream may take nothing before it is cut off. */
  readonly streamStallMs: number
}
