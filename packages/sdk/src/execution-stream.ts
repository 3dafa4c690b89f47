import {
  BrambleError,
  type ExecutionEvent,
  type ExecutionId,
  type ExecutionResult,
  executionEventSchema,
} from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { badResponse, CommandFailedError, cancelled } from './failure.ts'
import type { SseMessage } from './sse.ts'
import { checked, parseJson } from './transport.ts'

/** What a stream of an execution yields: an `error` of the node is thrown instead. */
export type StreamEvent = Exclude<ExecutionEvent, { type: 'error' }>

/**
 * A command as it runs. Iterate it (once) for its events; the pace of the reader is the pace of the command. `result` is
 * there in both cases: awaiting it without iterating reads the stream to its end and drops the output. Leaving the
 * iteration early cancels the execution.
 */
export class ExecutionStream implements AsyncIterable<StreamEvent> {
  readonly #open: (signal: AbortSignal) => AsyncIterable<SseMessage[]>
  readonly #options: ExecuteOptions
  readonly #controller = new AbortController()
  readonly #result = Promise.withResolvers<ExecutionResult>()
  #started = false
  #id: ExecutionId | undefined

  constructor(open: (signal: AbortSignal) => AsyncIterable<SseMessage[]>, options: ExecuteOptions = {}) {
    this.#open = open
    this.#options = options
    // Whoever only iterates hears of a failure there; the promise must not be an unhandled rejection beside it.
    this.#result.promise.catch(() => undefined)
  }

  /** Known from the first event on. */
  get id(): ExecutionId | undefined {
    return this.#id
  }

  get result(): Promise<ExecutionResult> {
    if (!this.#started) void this.#drain()
    return this.#result.promise
  }

  /** Ends the stream, and with it the execution. Safe at any time, any number of times. */
  cancel(reason?: unknown): void {
    this.#controller.abort(reason)
  }

  [Symbol.asyncIterator](): AsyncIterator<StreamEvent> {
    if (this.#started) throw new TypeError('an ExecutionStream is read once')
    this.#started = true
    return this.#read()
  }

  async #drain(): Promise<void> {
    try {
      for await (const _event of this);
    } catch {
      // `result` has been rejected with it.
    }
  }

  async *#read(): AsyncGenerator<StreamEvent, void, undefined> {
    const outer = this.#options.signal
    const onAbort = () => this.cancel(outer?.reason)
    if (outer?.aborted) onAbort()
    else outer?.addEventListener('abort', onAbort, { once: true })
    try {
      for await (const messages of this.#open(this.#controller.signal)) {
        for (const message of messages) {
          const event = eventOf(message)
          if (event === undefined) continue
          if (event.type === 'queued' || event.type === 'started') this.#id = event.id
          if (event.type === 'result') this.#settle(event.result)
          yield event
          if (event.type === 'result') return
        }
      }
      throw endedEarly()
    } catch (error) {
      this.#result.reject(error)
      throw error
    } finally {
      outer?.removeEventListener('abort', onAbort)
      this.#result.reject(cancelled('the stream was left before its result'))
    }
  }

  #settle(result: ExecutionResult): void {
    if (this.#options.check === true && result.status !== 'succeeded')
      this.#result.reject(new CommandFailedError(result))
    else this.#result.resolve(result)
  }
}

export const endedEarly = (): BrambleError =>
  new BrambleError('connection_failed', { detail: 'the stream ended before the result' })

const KNOWN = new Set<string>(['queued', 'started', 'stdout', 'stderr', 'exit', 'result', 'error'])

/** One event, checked. Output is checked by hand: it is most of a stream, and a schema would double its cost. */
export const eventOf = (message: SseMessage): StreamEvent | undefined => {
  const value = parseJson(message.data, 'the stream') as Record<string, unknown> | null
  const type = value?.type
  if (value === null || typeof type !== 'string') throw badResponse('an event of the stream has no type')
  if (type === 'stdout' || type === 'stderr') {
    if (typeof value.data !== 'string') throw badResponse(`an event ${type} has no data`)
    return value as StreamEvent
  }
  // A newer node may have kinds of events that this client does not know.
  if (!KNOWN.has(type)) return undefined
  const event = checked(executionEventSchema, value, `the event ${type}`)
  if (event.type === 'error') throw BrambleError.fromProblem(event.error)
  return event
}
