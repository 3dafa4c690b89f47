import {
  type InstanceStats,
  type InstanceStatus,
  instanceSchema,
  instanceStatsSchema,
  type Instance as Record,
  type Snapshot,
} from '@bramble/protocol'
import type { RetryPolicy } from '../backoff.ts'
import type { CallOptions } from '../call.ts'
import { escapeText } from '../escape.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type BranchOptions, makeBranches } from '../snapshots/branches.ts'
import { type SnapshotOptions, takeSnapshot } from '../snapshots/take.ts'
import type { Transport } from '../transport.ts'
import { type ExecOptions, InstanceExec } from './exec.ts'
import { type Files, filesOf } from './files.ts'
import { InstanceStream, type StreamOptions, type Watch, type WatchOptions } from './instance-stream.ts'
import { type Exposed, type ExposeOptions, expose, type Ports, ports, unexpose } from './ports.ts'
import { Terminal, type TerminalOptions } from './terminal.ts'
import { type Tunnel, tunnelOf } from './tunnel.ts'

export interface InstanceContext {
  readonly transport: Transport
  readonly retry: RetryPolicy
}

export const INSTANCES_PATH = '/api/v1/instances'

export type LifecycleAction = 'start' | 'stop' | 'pause' | 'resume'

/** Changes an instance, and resolves with what it is then. Making a sandbox may take longer than other requests. */
export const changeInstance = (
  { transport }: InstanceContext,
  ref: string,
  action: LifecycleAction | 'extend',
  body: unknown,
  options: CallOptions = {},
): Promise<Record> =>
  transport.json(
    {
      method: 'POST',
      path: `${INSTANCES_PATH}/${escapeText(ref)}/${action}`,
      ...(body !== undefined && { body }),
      requestTimeoutMs: SDK_LIMITS.executionGraceMs,
      ...options,
    },
    instanceSchema,
  )

/** One that the caller asked to be made: it is theirs to delete. */
export const ownInstance =
  (context: InstanceContext) =>
  (record: Record): Instance =>
    new Instance(context, record, { deletes: true })

/**
 * A sandbox that outlives one command. `await using` deletes one that `instances.start` made, unless it is kept (`keep`);
 * one that `get` or `list` gave is left alone. A request to a paused instance resumes it, unless it was started without
 * `autoResume`.
 */
export class Instance implements AsyncDisposable {
  readonly id: string
  readonly files: Files
  readonly #context: InstanceContext
  readonly #path: string
  #record: Record
  #deletes: boolean

  constructor(context: InstanceContext, record: Record, options: { deletes: boolean }) {
    this.id = record.id
    this.#context = context
    this.#record = record
    this.#deletes = options.deletes
    this.#path = `${INSTANCES_PATH}/${record.id}`
    const { transport } = context
    this.files = filesOf({ transport, path: this.#path, openStream: (call) => this.stream(call) })
  }

  /** As the node last told it: `refresh` asks again. */
  get info(): Record {
    return this.#record
  }

  get name(): string | undefined {
    return this.#record.name
  }

  get status(): InstanceStatus {
    return this.#record.status
  }

  /** Leaving the scope of `await using` no longer deletes it. */
  keep(): this {
    this.#deletes = false
    return this
  }

  async refresh(options: CallOptions = {}): Promise<this> {
    this.#record = await this.#context.transport.json({ method: 'GET', path: this.#path, ...options }, instanceSchema)
    return this
  }

  /** Of one that is stopped: its files are as they were. */
  start(options?: CallOptions): Promise<this> {
    return this.#change('start', undefined, options)
  }

  /** Ends its processes; the files are kept. */
  stop(options?: CallOptions): Promise<this> {
    return this.#change('stop', undefined, options)
  }

  /**
   * Freezes its processes: they use no processor until it is resumed. With `snapshot` its state is saved, too, so that it
   * outlives the host, and `info.snapshotId` names it.
   */
  pause({ snapshot, ...options }: CallOptions & { readonly snapshot?: boolean | undefined } = {}): Promise<this> {
    return this.#change('pause', snapshot === undefined ? undefined : { snapshot }, options)
  }

  resume(options?: CallOptions): Promise<this> {
    return this.#change('resume', undefined, options)
  }

  /** It expires so long from now; `null`: never. */
  extend(ttlMs: number | null, options?: CallOptions): Promise<this> {
    return this.#change('extend', { ttlMs }, options)
  }

  /** Its processes and its files: all of it. */
  async delete(options: CallOptions = {}): Promise<void> {
    this.#deletes = false
    const request = { method: 'DELETE', path: this.#path, requestTimeoutMs: SDK_LIMITS.executionGraceMs } as const
    await this.#context.transport.none({ ...request, ...options })
  }

  /** Its state, kept: the files, and the processes with their memory where that works. It goes on after a moment. */
  snapshot(options?: SnapshotOptions): Promise<Snapshot> {
    return takeSnapshot(this.#context.transport, this.#path, options)
  }

  /**
   * Instances that continue from its present state, each on its own; this one goes on undisturbed. `await using` deletes
   * a branch, unless it is kept. `bramble.branches.create` also runs a command in each.
   */
  async branch(count = 1, options: BranchOptions = {}): Promise<Instance[]> {
    const place = { path: `${this.#path}/branch`, toInstance: ownInstance(this.#context) }
    const { items } = await makeBranches(this.#context.transport, place, { ...options, count })
    return items.map(({ instance }) => instance)
  }

  /** A command: await it for its result, or `.stream()` it. A string goes to `sh -c`, an array is an argv. */
  exec(command: string | string[], options?: ExecOptions): InstanceExec {
    const { timeoutMs, maxOutputBytes } = this.#record.resources
    return new InstanceExec(
      { transport: this.#context.transport, path: this.#path, timeoutMs, maxOutputBytes },
      command,
      options,
    )
  }

  /** The live wire: any number of commands at once, with input and signals, and everything that happens in it. */
  stream(options: StreamOptions = {}): Promise<InstanceStream> {
    return InstanceStream.open(this.#socketsAt('stream'), options)
  }

  /** A terminal with a shell, or with `cmd`. */
  pty(options: TerminalOptions = {}): Promise<Terminal> {
    return Terminal.open(this.#socketsAt('pty'), options)
  }

  /** What changes below a path, until the loop is left. It begins at once. */
  watch(path: string, options?: CallOptions & WatchOptions): Watch {
    return this.files.watch(path, options)
  }

  /** A port over HTTP and WebSocket; the answer has its `url`. */
  expose(port: number, options?: ExposeOptions): Promise<Exposed> {
    return expose(this.#context.transport, this.#path, port, options)
  }

  unexpose(port: number, options?: CallOptions): Promise<void> {
    return unexpose(this.#context.transport, this.#path, port, options)
  }

  /** What listens in it, and what is exposed. */
  ports(options?: CallOptions): Promise<Ports> {
    return ports(this.#context.transport, this.#path, options)
  }

  /** A TCP connection to a port in it, whatever its network is. */
  async tunnel(port: number, options: CallOptions = {}): Promise<Tunnel> {
    return tunnelOf(await this.#socketsAt(`tunnel/${port}`).connect({}, options))
  }

  stats(options: CallOptions = {}): Promise<InstanceStats> {
    return this.#context.transport.json({ method: 'GET', path: `${this.#path}/stats`, ...options }, instanceStatsSchema)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#deletes) return
    await this.delete().catch((error: { code?: unknown }) => {
      if (error.code !== 'not_found') throw error
    })
  }

  async #change(action: LifecycleAction | 'extend', body: unknown, options?: CallOptions): Promise<this> {
    this.#record = await changeInstance(this.#context, this.id, action, body, options)
    return this
  }

  #socketsAt(name: string) {
    const { transport, retry } = this.#context
    return {
      retry,
      connect: (query: { [name: string]: string | number | boolean | undefined }, options: CallOptions) =>
        transport.socket({ path: `${this.#path}/${name}`, like: this.#path, query, ...options }),
    }
  }
}
