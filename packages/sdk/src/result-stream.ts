import { BrambleError } from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { CommandFailedError, type CommandOutcome, cancelled } from './failure.ts'
import type { SseMessage } from './sse.ts'

export interface StreamSource<E, R> {
  open(signal: AbortSignal): AsyncIterable<SseMessage[]>
  /** One event, checked; undefined for one of a kind that is not known. Throws what the node says went wrong. */
  eventOf(message: SseMessage): E | undefined
  /** The result, where this is the event that has it. */
  resultOf(event: E): R | undefined
}

/**
 * A command as it runs. Iterate it (once) for its events; the pace of the reader is the pace of the command. `result` is
 * there in both cases: awaiting it without iterating reads the stream to its end and drops the output. Leaving the
 * iteration early cancels the command.
 */
export class ResultStream<E, R extends CommandOutcome> implements AsyncIterable<E> {
  readonly #source: StreamSource<E, R>
  readonly #options: Pick<ExecuteOptions, 'signal' | 'check'>
  readonly #controller = new AbortController()
  readonly #result = Promise.withResolvers<R>()
  #started = false

  constructor(source: StreamSource<E, R>, options: Pick<ExecuteOptions, 'signal' | 'check'> = {}) {
    this.#source = source
    this.#options = options
    // Whoever only iterates hears of a failure there; the promise must not be an unhandled rejection beside it.
    this.#result.promise.catch(() => undefined)
  }

  get result(): Promise<R> {
    if (!this.#started) void this.#drain()
    return this.#result.promise
  }

  /** Ends the stream, and with it the command. Safe at any time, any number of times. */
  cancel(reason?: unknown): void {
    this.#controller.abort(reason)
  }

  [Symbol.asyncIterator](): AsyncIterator<E> {
    if (this.#started) throw new TypeError('the stream of a command is read once')
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

  async *#read(): AsyncGenerator<E, void, undefined> {
    const outer = this.#options.signal
    const onAbort = () => this.cancel(outer?.reason)
    if (outer?.aborted) onAbort()
    else outer?.addEventListener('abort', onAbort, { once: true })
    try {
      for await (const messages of this.#source.open(this.#controller.signal)) {
        for (const message of messages) {
          const event = this.#source.eventOf(message)
          if (event === undefined) continue
          const result = this.#source.resultOf(event)
          if (result !== undefined) this.#settle(result)
          yield event
          if (result !== undefined) return
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

  #settle(result: R): void {
    if (this.#options.check === true && result.status !== 'succeeded')
      this.#result.reject(new CommandFailedError(result))
    else this.#result.resolve(result)
  }
}

export const endedEarly = (): BrambleError =>
  new BrambleError('connection_failed', { detail: 'the stream ended before the result' })
