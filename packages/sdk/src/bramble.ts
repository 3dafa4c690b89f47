import { BrambleError, type ExecutionResult, type ExecutionSpecInput } from '@bramble/protocol'
import { type RetryPolicy, retryPolicy } from './backoff.ts'
import { type BatchOptions, batch } from './batch.ts'
import { type Blobs, blobs } from './blobs.ts'
import { type Cache, cache } from './cache.ts'
import type { CallOptions, ExecuteOptions } from './call.ts'
import { readEnvironment } from './environment.ts'
import { type Executor, send, streamOf } from './execute.ts'
import { ExecutionBuilder } from './execution-builder.ts'
import type { ExecutionStream } from './execution-stream.ts'
import { type Executions, executions } from './executions.ts'
import { type Images, images } from './images.ts'
import { ownInstance } from './instances/instance.ts'
import { type Instances, instances } from './instances/instances.ts'
import { type Jobs, jobs } from './jobs/jobs.ts'
import { type NetworkClient, networkOf } from './jobs/network.ts'
import type { RouteSource } from './jobs/route-source.ts'
import { type Keys, keys } from './keys.ts'
import { SDK_LIMITS } from './limits.ts'
import { type MapOptions, map, type RaceResult, type Runnable, race, specOf } from './many.ts'
import { health, type PrewarmInput, pools, prewarm, type UsageQuery, usage } from './operations.ts'
import { type Branches, branches } from './snapshots/branches.ts'
import { type Merge, mergeOf } from './snapshots/merge.ts'
import { type Snapshots, snapshots } from './snapshots/snapshots.ts'
import { refOf, type StateRef } from './snapshots/state-ref.ts'
import type { WebSocketClass } from './socket/open-socket.ts'
import type { SocketOpener } from './socket/socket.ts'
import { type SshKeys, sshKeys } from './ssh-keys.ts'
import { type Store, store } from './store.ts'
import { type Transport, transport } from './transport.ts'
import { type Volumes, volumes } from './volumes.ts'

export interface BrambleOptions {
  /** Of the node. Default: `BRAMBLE_URL`, else `http://127.0.0.1:8080`. */
  readonly url?: string | undefined
  /** Default: `BRAMBLE_API_KEY`. */
  readonly apiKey?: string | undefined
  /** Where the node is, where that may change: instead of `url` and `apiKey`. `network.client` gives clients that have one. */
  readonly route?: RouteSource | undefined
  /** Another `fetch`: of a test, of a proxy, of an older platform. */
  readonly fetch?: typeof globalThis.fetch | undefined
  /**
   * Another `WebSocket`. Default: in Node that of `ws`, which can wait for a slow reader and sends the key as a header;
   * elsewhere the platform's, with the key as `?token=` in the URL.
   */
  readonly webSocket?: WebSocketClass | undefined
  /** How long a command may run where its spec does not say. Default: the node's, one minute. */
  readonly timeoutMs?: number | undefined
  /** How long a request other than an execution may wait for its answer. Default 30 s. */
  readonly requestTimeoutMs?: number | undefined
  /** Tries after the first, on errors that are `retryable`. Default 3. */
  readonly retries?: number | undefined
  /** The pace of the retries. */
  readonly backoff?: Partial<Omit<RetryPolicy, 'retries'>> | undefined
}

type Resources = NonNullable<ExecutionSpecInput['resources']>

/** Everything of a spec, its resources also by themselves: `{ image: 'python', cpus: 2, timeoutMs: 5000 }`. */
export type RunOptions = Omit<ExecutionSpecInput, 'command'> & Resources & ExecuteOptions

/**
 * The client of one node, or of a network by any of its coordinators. It holds no connection and needs no closing. Every rejection is a `BrambleError`: tell them
 * apart by `code`. A command that exits non-zero is a result, and an error only with `check`.
 */
export class Bramble {
  readonly url: string
  readonly blobs: Blobs
  readonly branches: Branches
  readonly cache: Cache
  readonly executions: Executions
  readonly images: Images
  readonly instances: Instances
  /** Of a coordinator: work for a network. */
  readonly jobs: Jobs
  readonly keys: Keys
  readonly merge: Merge
  /** Of a coordinator: its nodes, and the network as a whole. */
  readonly network: NetworkClient
  readonly snapshots: Snapshots
  readonly sshKeys: SshKeys
  readonly store: Store
  readonly volumes: Volumes
  readonly #transport: Transport
  readonly #executor: Executor

  constructor(options: BrambleOptions = {}) {
    const environment = readEnvironment()
    this.url = baseUrl(options.url ?? environment.url ?? 'http://127.0.0.1:8080')
    const retry = retryPolicy({
      ...options.backoff,
      ...(options.retries !== undefined && { retries: options.retries }),
    })
    this.#transport = transport({
      url: this.url,
      apiKey: printable(options.apiKey ?? environment.apiKey),
      // Called through `globalThis`, because a browser's `fetch` refuses any other receiver.
      fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
      requestTimeoutMs: options.requestTimeoutMs ?? SDK_LIMITS.requestTimeoutMs,
      retry,
      sockets: () => openerFor(options.webSocket),
      ...(options.route && { route: options.route }),
    })
    this.#executor = { transport: this.#transport, timeoutMs: options.timeoutMs }
    this.executions = executions(this.#transport)
    this.images = images(this.#transport)
    const context = { transport: this.#transport, retry }
    this.blobs = blobs(this.#transport)
    this.branches = branches(this.#transport, ownInstance(context))
    this.cache = cache(this.#transport)
    this.instances = instances(context)
    this.jobs = jobs(context, this.blobs)
    this.keys = keys(this.#transport)
    this.merge = mergeOf(this.#transport) as Merge
    this.network = networkOf(this.#transport, (route) => {
      const retries = Math.max(retry.retries, SDK_LIMITS.routedRetries)
      const requestTimeoutMs = options.requestTimeoutMs ?? SDK_LIMITS.routedRequestTimeoutMs
      return new Bramble({ ...options, requestTimeoutMs, retries, route })
    })
    this.snapshots = snapshots(this.#transport, ownInstance(context))
    this.sshKeys = sshKeys(this.#transport)
    this.store = store(this.#transport)
    this.volumes = volumes(this.#transport)
  }

  /** Runs a command in a fresh sandbox: a string by `sh -c`, an array as it is. */
  run(command: string | string[], options: RunOptions = {}): Promise<ExecutionResult> {
    const { signal, requestTimeoutMs, check, resources, ...rest } = options
    const { cpus, memoryMb, diskMb, pids, gpus, timeoutMs, maxOutputBytes, ...spec } = rest
    const flat = defined({ cpus, memoryMb, diskMb, pids, gpus, timeoutMs, maxOutputBytes })
    return send(
      this.#executor,
      { ...spec, command, resources: { ...resources, ...flat } },
      { signal, requestTimeoutMs, check },
    )
  }

  /** A command to be described further, then sent or streamed; or a whole spec, sent at once. */
  execute(command: string | string[]): ExecutionBuilder
  execute(spec: ExecutionSpecInput, options?: ExecuteOptions): Promise<ExecutionResult>
  execute(
    what: string | string[] | ExecutionSpecInput,
    options?: ExecuteOptions,
  ): ExecutionBuilder | Promise<ExecutionResult> {
    if (typeof what === 'string' || Array.isArray(what)) return new ExecutionBuilder(this.#executor, { command: what })
    return send(this.#executor, what, options)
  }

  /**
   * A command in a branch of an instance, a snapshot, or what an execution left, which goes on undisturbed:
   * `fork(box).run('./v1')`, or described further as `execute` is.
   */
  fork(parent: StateRef): ExecutionBuilder {
    return new ExecutionBuilder(this.#executor, { command: '', mode: 'branched', parent: refOf(parent) })
  }

  /** Runs it and gives its events as they happen, with `result` at the end. */
  stream(what: string | string[] | ExecutionSpecInput, options?: ExecuteOptions): ExecutionStream {
    return streamOf(this.#executor, specOf(what), options)
  }

  /** Runs a command for each input, `maxConcurrency` at once; results are in the order of the inputs. */
  map<T>(
    inputs: Iterable<T> | AsyncIterable<T>,
    toRunnable: (input: T, index: number) => Runnable,
    options?: MapOptions,
  ): Promise<ExecutionResult[]> {
    return map(this.#executor, inputs, toRunnable, options)
  }

  /** Runs all at once; resolves with the first to succeed and cancels the others. */
  race(runnables: readonly Runnable[], options?: ExecuteOptions): Promise<RaceResult> {
    return race(this.#executor, runnables, options)
  }

  /** Many executions as one request. */
  batch(runnables: readonly Runnable[], options?: BatchOptions) {
    return batch(this.#transport, runnables, options)
  }

  prewarm(input: PrewarmInput, options?: CallOptions) {
    return prewarm(this.#transport, input, options)
  }

  pools(options?: CallOptions) {
    return pools(this.#transport, options)
  }

  usage(query?: UsageQuery) {
    return usage(this.#transport, query)
  }

  health(options?: CallOptions) {
    return health(this.#transport, options)
  }
}

/** Loaded when the first socket is opened: most programs need none. */
const openerFor = async (Class: WebSocketClass | undefined): Promise<SocketOpener> => {
  if (Class !== undefined) return (await import('./socket/open-socket.ts')).openerOf(Class)
  return (await import('#open-socket')).socketOpener()
}

const baseUrl = (text: string): string => {
  const parsed = URL.parse(text)
  if (parsed === null || !/^https?:$/.test(parsed.protocol))
    throw new BrambleError('invalid_request', { detail: `${JSON.stringify(text)} is not an http or https URL` })
  return `${parsed.origin}${parsed.pathname.replace(/\/+$/, '')}`
}

const printable = (apiKey: string | undefined): string | undefined => {
  if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey))
    throw new BrambleError('unauthorized', { detail: 'the API key holds characters that no key has' })
  return apiKey
}

const defined = (resources: Resources): Resources =>
  Object.fromEntries(Object.entries(resources).filter(([, value]) => value !== undefined))
