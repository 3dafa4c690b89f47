import { BrambleError, problemSchema } from '@bramble/protocol'
import type { RetryPolicy } from '../backoff.ts'
import type { CallOptions } from '../call.ts'
import { badResponse } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type LastingSocket, lastingSocket } from '../socket/lasting-socket.ts'
import type { Socket } from '../socket/socket.ts'
import { parseJson } from '../transport.ts'
import { feed } from './feed.ts'

export interface TerminalOptions extends CallOptions {
  readonly cols?: number | undefined
  readonly rows?: number | undefined
  /** For `sh -c`. Default: a shell. */
  readonly cmd?: string | undefined
  readonly user?: string | undefined
  readonly workdir?: string | undefined
  /** `session` of a terminal that lost its client: it goes on. */
  readonly session?: string | undefined
  /** How long to try to get a lost connection back. 0: not at all. Default two minutes. */
  readonly reconnectMs?: number | undefined
}

export interface TerminalEnd {
  readonly exitCode: number
  readonly signal?: string | undefined
}

export interface TerminalPlace {
  readonly retry: RetryPolicy
  connect(query: Record<string, string | number | undefined>, options: CallOptions): Promise<Socket>
}

/** Of a terminal: the state it has when it is switched on (RIS, ECMA-48). */
const RESET = new TextEncoder().encode('\x1bc')

/**
 * A terminal in an instance, with a command on it. Iterate it (once) for what it shows, as bytes; the reader's pace is the
 * command's. A lost connection is made anew by itself; what it showed last then comes again, after a reset of the screen.
 * Closing it hangs up the command (SIGHUP).
 */
export class Terminal implements AsyncIterable<Uint8Array>, AsyncDisposable {
  readonly #output = feed<Uint8Array>()
  readonly #exited = Promise.withResolvers<TerminalEnd>()
  readonly #opened = Promise.withResolvers<void>()
  #socket: LastingSocket | undefined
  #session: string | undefined
  #size: { cols: number | undefined; rows: number | undefined }
  #end: TerminalEnd | undefined
  #error: BrambleError | undefined

  private constructor(options: TerminalOptions) {
    this.#size = { cols: options.cols, rows: options.rows }
    this.#exited.promise.catch(() => undefined)
    this.#opened.promise.catch(() => undefined)
  }

  static async open(place: TerminalPlace, options: TerminalOptions = {}): Promise<Terminal> {
    const { cmd, user, workdir, signal, requestTimeoutMs } = options
    const terminal = new Terminal(options)
    terminal.#session = options.session
    const connect = (ending?: AbortSignal): Promise<Socket> => {
      const session = terminal.#session
      const what = session === undefined ? { cmd, user, workdir } : { session }
      return place.connect({ ...terminal.#size, ...what }, { requestTimeoutMs, signal: ending })
    }
    terminal.#socket = lastingSocket(await connect(signal), {
      connect,
      onMessage: (message) => terminal.#take(message),
      // What the node kept comes again: it goes onto an empty screen.
      onReconnect: () => void terminal.#output.push(RESET, RESET.length),
      isOver: () => terminal.#over(),
      onEnd: (error) => terminal.#finish(error),
      reconnectMs: options.reconnectMs ?? SDK_LIMITS.reconnectMs,
      silenceMs: SDK_LIMITS.streamSilenceMs,
      hasHeartbeat: false,
      retry: place.retry,
      signal,
    })
    await terminal.#opened.promise
    return terminal
  }

  /** By which another client can go on, once this one has gone. */
  get session(): string {
    return this.#session ?? ''
  }

  /** How its command ends; rejects where nobody can say any more. */
  get exited(): Promise<TerminalEnd> {
    return this.#exited.promise
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    return this.#output[Symbol.asyncIterator]()
  }

  /** What is typed; resolves when more may be. */
  async write(data: string | Uint8Array): Promise<void> {
    await this.#socket?.send(typeof data === 'string' ? new TextEncoder().encode(data) : data)
  }

  async resize(cols: number, rows: number): Promise<void> {
    this.#size = { cols, rows }
    await this.#socket?.send(JSON.stringify({ type: 'resize', cols, rows }))
  }

  /** To its foreground's command. */
  async kill(signal: string | number = 'SIGHUP'): Promise<void> {
    await this.#socket?.send(JSON.stringify({ type: 'signal', signal }))
  }

  /** False while the connection is lost. */
  get connected(): boolean {
    return this.#socket?.connected ?? false
  }

  close(): void {
    this.#socket?.close()
  }

  /** Goes, and leaves the command for a while: `session` finds it again. */
  detach(): void {
    this.#socket?.close(GOING_AWAY)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
    await this.#exited.promise.catch(() => undefined)
  }

  #take(message: string | Uint8Array): Promise<void> | undefined {
    if (typeof message !== 'string') return this.#output.push(message, message.length)
    const value = parseJson(message, 'the terminal') as Record<string, unknown> | null
    switch (value?.type) {
      case 'session':
        if (typeof value.id !== 'string') throw badResponse('a session of a terminal has no id')
        this.#session = value.id
        this.#opened.resolve()
        return undefined
      case 'exit': {
        if (typeof value.code !== 'number') throw badResponse('the exit of a terminal has no code')
        this.#end = { exitCode: value.code, ...(typeof value.signal === 'string' && { signal: value.signal }) }
        return undefined
      }
      case 'error':
        this.#error = errorOf(value)
        return undefined
      default:
        return undefined
    }
  }

  #over(): { error?: unknown } | undefined {
    if (this.#end !== undefined) return {}
    if (this.#error !== undefined && !this.#error.retryable) return { error: this.#error }
    return undefined
  }

  #finish(error?: unknown): void {
    const end = this.#end
    if (end !== undefined) {
      this.#output.end()
      this.#exited.resolve(end)
    } else {
      const why = error ?? new BrambleError('cancelled', { detail: 'the terminal was closed' })
      this.#output.end(error)
      this.#exited.reject(why)
      this.#opened.reject(why)
    }
  }
}

/** Anything but 1000 and 1005: the client may come back. A browser's socket may close with codes of its own only. */
const GOING_AWAY = 4000

/** `{type, code, message}` as on a stream, or with a whole problem document. */
const errorOf = (value: Record<string, unknown>): BrambleError => {
  const problem = problemSchema.safeParse(value.error)
  if (problem.success) return BrambleError.fromProblem(problem.data)
  const code = problemSchema.shape.code.safeParse(value.code)
  return new BrambleError(code.success ? code.data : 'internal', {
    detail: String(value.message ?? 'the terminal failed'),
  })
}
