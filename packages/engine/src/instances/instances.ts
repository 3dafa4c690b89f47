import type { EventEmitter } from 'node:events'
import type {
  BrambleError,
  ExecRequestBody,
  Instance,
  InstanceId,
  InstanceSpec,
  InstanceStats,
  InstanceStatus,
  Quota,
  StreamCommand,
} from '@bramble/protocol'
import type { Agent, NamedCommand, ProcessEvent, SandboxChange, SandboxFiles } from '@bramble/runtime'

/**
 * Persistent mode: sandboxes that outlive one command.
 *
 * Every change of an instance is on disk before its caller is told. A node that starts again takes over the sandboxes that
 * still run (`Runtime.attach`), finds those that do not `stopped` with the reason, and goes on counting their TTLs.
 *
 * Lifecycle: `starting -> running <-> paused`, `running | paused -> stopping -> stopped -> starting`. Changes of one
 * instance happen one after another; a change that makes no sense in the present state rejects with `conflict`. A sandbox
 * that ends by itself (its agent killed, out of memory) leaves the instance `stopped`, with the reason, its files kept.
 *
 * Use. Whoever talks to an instance holds a lease (`use`): it resumes a paused one (`autoResume`), and while there is one,
 * or a command of a stream runs, the instance is not idle. Its own `command` is no use of it.
 *
 * Errors: `not_found` (another tenant's too), `conflict`, `instance_stopped`, `unsupported`, `quota_exceeded`, `queue_full`,
 * `image_not_found`, `sandbox_failed`, `sandbox_died`.
 */
export interface Instances {
  /** Makes and starts one; resolves when it runs. */
  create(spec: InstanceSpec, context: InstanceContext): Promise<Instance>
  /** `ref`: an id, or a name of the tenant. */
  get(ref: string, tenant: string): Promise<Instance>
  list(query: InstanceQuery): Promise<{ items: Instance[]; nextCursor: string | null }>
  start(ref: string, tenant: string): Promise<Instance>
  /** Ends its processes (SIGTERM, then after a grace SIGKILL); the files are kept. */
  stop(ref: string, tenant: string): Promise<Instance>
  /** Stops all that run or are paused, of every tenant, as `stop` does. Resolves with how many those were. */
  stopAll(): Promise<number>
  pause(ref: string, tenant: string): Promise<Instance>
  resume(ref: string, tenant: string): Promise<Instance>
  /** It expires `ttlMs` from now, or never. */
  extend(ref: string, tenant: string, ttlMs: number | null): Promise<Instance>
  /** Its processes, its files: all of it. Safe twice (`not_found` then). */
  remove(ref: string, tenant: string): Promise<void>
  use(ref: string, tenant: string, options?: { signal?: AbortSignal }): Promise<InstanceLease>
  stats(ref: string, tenant: string): Promise<InstanceStats>
  /**
   * Lets requests from outside reach a port of it, whether something listens there or not; again, it changes the visibility
   * and nothing else. They last until `unexpose`, or the end of the instance. Rejects with `quota_exceeded` past
   * `maxExposedPorts`.
   */
  expose(ref: string, tenant: string, port: number, visibility: 'private' | 'public'): Promise<Exposure>
  /** Rejects with `not_found` where the port is not exposed. */
  unexpose(ref: string, tenant: string, port: number): Promise<void>
  exposures(ref: string, tenant: string): Promise<Exposure[]>
  /**
   * The exposures of `port` by instances with that id or name, of any tenant, the oldest instance first. From memory: it is
   * asked once for every request that comes for a port.
   */
  findExposed(ref: string, port: number): readonly Exposure[]
}

/** A port of an instance that requests from outside may reach. */
export interface Exposure {
  readonly instanceId: InstanceId
  readonly name?: string
  readonly tenant: string
  readonly port: number
  readonly visibility: 'private' | 'public'
  /** Kept while the port stays exposed; signatures hold for this time only. */
  readonly createdAt: string
}

export interface InstanceContext {
  readonly tenant: string
  readonly keyId: string
  readonly quota?: Quota
  readonly signal?: AbortSignal
  /** Of the one instance that is made; rejects with `conflict` where there is one. Default: a new one. */
  readonly id?: InstanceId
}

export interface InstanceQuery {
  readonly tenant: string
  readonly limit: number
  readonly cursor?: string
  readonly status?: InstanceStatus
  readonly label?: string
}

/** The right to talk to a running instance, until it is given back. Disposing twice is safe. */
export interface InstanceLease extends Disposable {
  readonly id: InstanceId
  readonly tenant: string
  /** The connection to the sandbox as it runs now. */
  readonly agent: Agent
  readonly files: SandboxFiles
  readonly stream: InstanceStream
  /** Environment, user and working directory of its commands, where a command does not say. */
  readonly defaults: { readonly env: Readonly<Record<string, string>>; readonly user: string; readonly workdir: string }
  /** Resolves when this sandbox ends: stopped, deleted, or by itself. Not once the lease is given back. */
  readonly ended: Promise<{ readonly status: InstanceStatus | 'deleted'; readonly reason?: string }>
  /** Runs a command to its end, with the instance's defaults; iterate it for output as it comes. */
  exec(request: ExecRequestBody, options: { signal: AbortSignal; stream: boolean }): InstanceExec
  /** Processes and ports, shared by all who ask while anybody does. */
  observe(options: { signal: AbortSignal }): AsyncIterable<SandboxChange>
  /** What listens now. */
  ports(): Promise<{ port: number; address: string; pid?: number; command?: string }[]>
  /** TCP to a host name or address from the sandbox's place in the network, or to the sandbox itself (`localhost`). */
  connect(target: { host?: string; port: number; signal?: AbortSignal }): Promise<import('node:stream').Duplex>
}

export interface InstanceExec
  extends AsyncIterable<
    | { readonly type: 'stdout' | 'stderr'; readonly data: Uint8Array }
    | { readonly type: 'started'; readonly pid: number }
  > {
  readonly result: Promise<import('@bramble/protocol').ExecResult>
}

/**
 * The log of an instance, for any number of readers: named commands and what programs emit. It holds the entries that the
 * agent keeps, so that readers that come back find what they missed; the slowest reader is waited for, up to
 * `stallMs`, then it is cut off with `slow_consumer`.
 */
export interface InstanceStream {
  /** The number of the newest entry. */
  readonly seq: number
  /** The number of the oldest entry that is kept, or will be: `read({since: firstSeq - 1})` gives all of them. */
  readonly firstSeq: number
  readonly commands: ReadonlyMap<string, NamedCommand>
  /** Starts a command under `command.id` (or an id of its own), with the instance's defaults. Rejects with `conflict`. */
  start(command: Extract<StreamCommand, { type: 'exec' }>): NamedCommand
  /**
   * Entries after `since` (default: only those after this call), in order, until the sandbox ends. Asking for the next one
   * says that the one before was taken. Rejects with `window_passed` when what came after `since` is no longer kept.
   */
  read(options: StreamReadOptions): AsyncIterable<StreamEntry>
  /** `state` on every change of the instance. */
  readonly events: EventEmitter<{ state: [] }>
}

export interface StreamReadOptions {
  readonly since?: number
  /** The entries of one command. */
  readonly only?: string
  readonly signal: AbortSignal
  /** Called at once when this reader is cut off: it may be held up in sending what it has, and not ask for more. */
  readonly onCutOff?: (error: BrambleError) => void
}

export type StreamEntry =
  | { readonly seq: number; readonly id: string; readonly event: ProcessEvent }
  | { readonly seq: number; readonly name: string; readonly data: unknown }
