import { BrambleError, newId, type StreamCommandInput } from '@bramble/protocol'
import type { RetryPolicy } from '../backoff.ts'
import type { CallOptions } from '../call.ts'
import { cancelled } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type LastingSocket, lastingSocket } from '../socket/lasting-socket.ts'
import type { Socket } from '../socket/socket.ts'
import { errorOf, type FileEvent, type InstanceEvent, instanceEventOf, type StateEvent } from './events.ts'
import { type Feed, feed } from './feed.ts'
import { StreamProcess } from './process.ts'

type ExecMessage = Extract<StreamCommandInput, { type: 'exec' }>

export interface StreamOptions extends CallOptions {
  /**
   * The number of an event: what came after it comes first, as long as it is kept, else `window_passed`. `kept`: all that is
   * kept. Default: only new ones.
   */
  readonly since?: number | 'kept' | undefined
  /** Whether processes and ports are watched for this stream. Default true. */
  readonly processes?: boolean | undefined
  /** How long to try to get a lost connection back. 0: not at all. Default two minutes. */
  readonly reconnectMs?: number | undefined
}

export interface ProcessOptions extends Omit<ExecMessage, 'type' | 'command'> {
  /** Aborting kills the command. */
  readonly signal?: AbortSignal | undefined
}

export interface CheckpointOptions {
  readonly name?: string | undefined
  /** True: with its processes, or not at all. False: the files alone. Default: with them where that works. */
  readonly memory?: boolean | undefined
}

export interface WatchOptions {
  /** Default true. */
  readonly recursive?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

/** What changes below a path. Iterate it, once; leaving the loop, or disposing of it, ends the watch. */
export interface Watch extends AsyncIterable<FileEvent>, AsyncDisposable {
  /** Resolves when every change from now on is told. */
  readonly ready: Promise<void>
}

interface Watching {
  readonly path: string
  /** What the paths below it begin with. */
  readonly below: string
  readonly recursive: boolean
  readonly changes: Feed<FileEvent>
}

export interface StreamPlace {
  readonly retry: RetryPolicy
  connect(query: Record<string, number | boolean | undefined>, options: CallOptions): Promise<Socket>
}

/**
 * The live wire to an instance: any number of commands at once, and everything that happens in it. A lost connection is made
 * anew by itself and goes on after the last event that came, so nothing is missed within what the node keeps; input that
 * was under way when it broke may be lost.
 *
 * Every event of every command comes, whoever started it. A reader that is slow (of `events`, of a command's output) makes
 * the stream wait, and with it the commands; in a browser, whose sockets cannot wait, it loses the connection with
 * `slow_consumer` when `maxBufferedBytes` wait.
 *
 * Closing it ends no command.
 */
export class InstanceStream implements AsyncIterable<InstanceEvent>, AsyncDisposable {
  readonly #processes = new Map<string, StreamProcess>()
  /** Commands that the node has not confirmed yet, by id. */
  readonly #unconfirmed = new Map<string, { message: ExecMessage; begun: PromiseWithResolvers<void> }>()
  /** Asked for on the present connection, and not answered yet. */
  readonly #checkpoints = new Map<string, PromiseWithResolvers<string>>()
  readonly #readers = new Set<Feed<InstanceEvent>>()
  readonly #watching = new Map<string, Watching[]>()
  #watchTurn: Promise<void> = Promise.resolve()
  readonly #unready = new Map<Watching, PromiseWithResolvers<void>>()
  readonly #stateReaders = new Set<PromiseWithResolvers<StateEvent>>()
  readonly #closed = Promise.withResolvers<void>()
  #socket: LastingSocket | undefined
  #seq: number | undefined
  #state: StateEvent | undefined
  #lastError: BrambleError | undefined
  /** On a new connection: where what was missed has all been told. */
  #resendAt: number | undefined

  private constructor(since: number | undefined) {
    this.#seq = since
    this.#closed.promise.catch(() => undefined)
  }

  /** Resolves when the first state of the instance is there. */
  static async open(place: StreamPlace, options: StreamOptions = {}): Promise<InstanceStream> {
    if (options.since === 'kept') return openKept(place, options)
    const stream = new InstanceStream(options.since)
    const { processes } = options
    const connect = (signal?: AbortSignal): Promise<Socket> =>
      place.connect({ since: stream.#seq, processes }, { requestTimeoutMs: options.requestTimeoutMs, signal })
    const first = await connect(options.signal)
    const state = stream.#nextState()
    stream.#socket = lastingSocket(first, {
      connect,
      onMessage: (message) => stream.#take(message),
      onReconnect: () => stream.#again(),
      isOver: () => stream.#over(),
      onEnd: (error) => stream.#end(error),
      reconnectMs: options.reconnectMs ?? SDK_LIMITS.reconnectMs,
      silenceMs: SDK_LIMITS.streamSilenceMs,
      hasHeartbeat: true,
      retry: place.retry,
      signal: options.signal,
    })
    await state
    return stream
  }

  /** The number of the last event that came: `since` of a stream that is to go on from here. */
  get seq(): number {
    return this.#seq ?? 0
  }

  /** The last that was told. */
  get state(): StateEvent | undefined {
    return this.#state
  }

  /** Resolves when the stream has ended: it was closed, or the instance was stopped or deleted. Rejects when it broke for good. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /** Starts a command: a string by `sh -c`, an array as it is. Resolves when it runs, or could not be started. */
  async exec(command: string | string[], options: ProcessOptions = {}): Promise<StreamProcess> {
    const { signal, ...rest } = options
    if (signal?.aborted) throw cancelled(signal.reason)
    const id = options.id ?? newId('command')
    const message: ExecMessage = { type: 'exec', ...rest, id, command }
    const process = new StreamProcess(id, { send: (text) => this.#send(text) })
    if (this.#processes.has(id))
      throw new BrambleError('conflict', { detail: `a command ${JSON.stringify(id)} runs on this stream` })
    this.#processes.set(id, process)
    const begun = Promise.withResolvers<void>()
    begun.promise.catch(() => undefined)
    this.#unconfirmed.set(id, { message, begun })
    const onAbort = (): void => void process.kill('SIGKILL').catch(() => undefined)
    signal?.addEventListener('abort', onAbort, { once: true })
    process.tell.ended.finally(() => signal?.removeEventListener('abort', onAbort)).catch(() => undefined)
    try {
      await this.#send(message)
      await begun.promise
      return process
    } catch (error) {
      this.#processes.delete(id)
      throw error
    } finally {
      this.#unconfirmed.delete(id)
    }
  }

  /** A command that runs already, by the id it was started with: its output from now on, its input, its end. */
  attach(id: string): StreamProcess {
    const process = this.#processes.get(id) ?? new StreamProcess(id, { send: (message) => this.#send(message) })
    this.#processes.set(id, process)
    return process
  }

  /**
   * Everything that comes, from now on; asked for right after `stream()`, with what `since` asked for. Any number of readers;
   * the slowest sets the pace.
   */
  events(): AsyncIterable<InstanceEvent> {
    const reader = feed<InstanceEvent>({ onLeave: () => this.#readers.delete(reader) })
    this.#readers.add(reader)
    return reader
  }

  [Symbol.asyncIterator](): AsyncIterator<InstanceEvent> {
    return this.events()[Symbol.asyncIterator]()
  }

  /** What changes in a file or a directory, and below it unless `recursive: false`. It begins at once. */
  watch(path: string, options: WatchOptions = {}): Watch {
    const { recursive = true, signal } = options
    const changes = feed<FileEvent>({ onLeave: () => this.#unwatch(watch) })
    const watch = { path, recursive, changes, below: path.endsWith('/') ? path : `${path}/` }
    const end = (): void => changes.end(cancelled(signal?.reason))
    if (signal?.aborted) end()
    else signal?.addEventListener('abort', end, { once: true })
    const ready = this.#watch(watch)
    // Whoever only iterates hears of it there.
    ready.catch((error: unknown) => changes.end(error))
    return {
      ready,
      [Symbol.asyncIterator]: () => changes[Symbol.asyncIterator](),
      [Symbol.asyncDispose]: async () => {
        changes.end()
        this.#unwatch(watch)
      },
    }
  }

  /** The state of the instance, asked for now. */
  async getState(): Promise<StateEvent> {
    const state = this.#nextState()
    await this.#send({ type: 'get_state' })
    return state
  }

  /** Takes a snapshot of the instance, and resolves with its id. One at a time. */
  async checkpoint({ name, memory }: CheckpointOptions = {}): Promise<string> {
    const id = newId('request')
    const taken = Promise.withResolvers<string>()
    taken.promise.catch(() => undefined)
    this.#checkpoints.set(id, taken)
    try {
      await this.#send({ type: 'checkpoint', id, name, memory })
      return await taken.promise
    } finally {
      this.#checkpoints.delete(id)
    }
  }

  /** Stops the instance, and resolves when the stream has ended. */
  async stop(): Promise<void> {
    await this.#send({ type: 'stop' })
    await this.#closed.promise
  }

  close(): void {
    this.#socket?.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#closed.promise.catch(() => undefined)
  }

  #send(message: StreamCommandInput): Promise<void> | undefined {
    return this.#socket?.send(JSON.stringify(message))
  }

  #nextState(): Promise<StateEvent> {
    const reader = Promise.withResolvers<StateEvent>()
    this.#stateReaders.add(reader)
    return reader.promise
  }

  #take(text: string | Uint8Array): Promise<void> | undefined {
    const event = instanceEventOf(text)
    if (event === undefined) return undefined
    // Only an error that is the last word before the end is why it ended.
    this.#lastError = undefined
    if ('seq' in event && event.type !== 'state') {
      // What came before the connection broke may come again.
      if (this.#seq !== undefined && event.seq < this.#seq) return undefined
      this.#seq = event.seq
    }
    let wait = this.#route(event)
    for (const reader of this.#readers) {
      const slow = reader.push(
        event,
        event.type === 'stdout' || event.type === 'stderr' ? event.output.data.length : 256,
      )
      if (slow !== undefined) wait = wait === undefined ? slow : Promise.all([wait, slow]).then(() => undefined)
    }
    if (this.#resendAt !== undefined && (this.seq >= this.#resendAt || event.type === 'heartbeat')) this.#resend()
    return wait
  }

  #route(event: InstanceEvent): Promise<void> | undefined {
    switch (event.type) {
      case 'stdout':
      case 'stderr':
        return this.#processes.get(event.id)?.tell.output(event.output)
      case 'started':
        this.#processes.get(event.id)?.tell.started(event.pid)
        this.#unconfirmed.get(event.id)?.begun.resolve()
        return undefined
      case 'exit': {
        const { code: exitCode, signal, message } = event
        this.#processes.get(event.id)?.tell.exited({ exitCode, signal, message })
        this.#processes.delete(event.id)
        this.#unconfirmed.get(event.id)?.begun.resolve()
        return undefined
      }
      case 'state':
        return this.#takeState(event)
      case 'error': {
        const error = errorOf(event)
        if (event.id === undefined) {
          this.#lastError = error
          for (const ready of this.#unready.values()) ready.reject(error)
          this.#unready.clear()
        } else {
          this.#unconfirmed.get(event.id)?.begun.reject(error)
          this.#checkpoints.get(event.id)?.reject(error)
        }
        return undefined
      }
      case 'checkpoint':
        if (event.id !== undefined) this.#checkpoints.get(event.id)?.resolve(event.snapshotId)
        return undefined
      case 'file_event': {
        let wait: Promise<void> | undefined
        for (const watch of [...this.#watching.values()].flat())
          if (event.path === watch.path || event.path.startsWith(watch.below))
            wait = watch.changes.push(event, 256) ?? wait
        return wait
      }
      default:
        return undefined
    }
  }

  #takeState(state: StateEvent): Promise<void> | undefined {
    const isFirst = this.#state === undefined
    this.#state = state
    this.#seq ??= state.seq
    if (this.#resendAt === Number.POSITIVE_INFINITY) this.#resendAt = state.window.last
    for (const reader of this.#stateReaders) reader.resolve(state)
    this.#stateReaders.clear()
    for (const [watch, ready] of this.#unready) {
      if (!state.watches.includes(watch.path)) continue
      this.#unready.delete(watch)
      ready.resolve()
    }
    // Whoever waits for `open` gets to ask for what comes next before it comes.
    return isFirst ? new Promise((resolve) => setTimeout(resolve, 0)) : undefined
  }

  /** A new connection: what this one asked for is asked for again. */
  #again(): void {
    this.#resendAt = Number.POSITIVE_INFINITY
    const detail = 'the connection broke before the answer; `snapshots.list` tells whether it was taken'
    for (const taken of this.#checkpoints.values()) taken.reject(new BrambleError('connection_failed', { detail }))
    for (const [path, [first]] of this.#watching)
      this.#send({ type: 'watch', path, recursive: first?.recursive })?.catch(() => undefined)
  }

  /** Commands that the lost connection took along: they neither run nor have they run. */
  #resend(): void {
    this.#resendAt = undefined
    const running = new Set(this.#state?.commands.map(({ id }) => id))
    for (const [id, { message, begun }] of this.#unconfirmed) {
      if (running.has(id)) begun.resolve()
      else this.#send(message)?.catch(() => undefined)
    }
  }

  async #watch(watch: Watching): Promise<void> {
    const { path, recursive } = watch
    const others = this.#watching.get(path)
    this.#watching.set(path, [...(others ?? []), watch])
    const before = this.#watchTurn
    const ready = Promise.withResolvers<void>()
    // One after another: an error about a watch does not say of which.
    this.#watchTurn = ready.promise.catch(() => undefined)
    await before
    if (this.#state?.watches.includes(path)) ready.resolve()
    else {
      this.#unready.set(watch, ready)
      if (others === undefined) await this.#send({ type: 'watch', path, recursive })
    }
    await ready.promise
  }

  #unwatch(watch: Watching): void {
    const { path } = watch
    const others = this.#watching.get(path)?.filter((other) => other !== watch) ?? []
    if (others.length > 0) this.#watching.set(path, others)
    else if (this.#watching.delete(path)) this.#send({ type: 'unwatch', path })?.catch(() => undefined)
    this.#unready.get(watch)?.resolve()
    this.#unready.delete(watch)
  }

  #over(): { error?: unknown } | undefined {
    const status = this.#state?.status
    if (status === 'stopped' || status === 'deleted') return {}
    return this.#lastError === undefined || this.#lastError.retryable ? undefined : { error: this.#lastError }
  }

  #end(error?: unknown): void {
    const status = this.#state?.status
    const detail = `the instance is ${status}${this.#state?.reason === undefined ? '' : `: ${this.#state.reason}`}`
    const why =
      error ??
      (status === 'stopped' || status === 'deleted' ? new BrambleError('instance_stopped', { detail }) : undefined)
    for (const process of this.#processes.values()) process.tell.lost(why)
    for (const { begun } of this.#unconfirmed.values()) begun.reject(why ?? cancelled(undefined))
    for (const taken of this.#checkpoints.values()) taken.reject(why ?? cancelled(undefined))
    for (const reader of this.#readers) reader.end(error)
    for (const reader of this.#stateReaders) reader.reject(why ?? cancelled(undefined))
    for (const { changes } of [...this.#watching.values()].flat()) changes.end(error)
    for (const ready of this.#unready.values()) ready.reject(why ?? cancelled(undefined))
    this.#processes.clear()
    if (error === undefined) this.#closed.resolve()
    else this.#closed.reject(error)
  }
}

/** How often the beginning of what is kept may move on while it is asked for. */
const KEPT_TRIES = 5

const openKept = async (place: StreamPlace, options: StreamOptions): Promise<InstanceStream> => {
  for (let tries = 1; ; tries++) {
    const before = await InstanceStream.open(place, { ...options, since: undefined, processes: false })
    const first = before.state?.window.first ?? 1
    before.close()
    try {
      return await InstanceStream.open(place, { ...options, since: Math.max(0, first - 1) })
    } catch (error) {
      if (!(error instanceof BrambleError) || error.code !== 'window_passed' || tries >= KEPT_TRIES) throw error
    }
  }
}
