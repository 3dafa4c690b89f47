import { backoffMs, pause, type RetryPolicy } from './backoff.ts'
import { readText } from './body.ts'
import { badResponse, connectionFailure, failureOf, neverStarted } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'
import { type Scope, scopeOf } from './scope.ts'
import { type SseMessage, sseParser } from './sse.ts'

export const JSON_TYPE = 'application/json'
export const EVENTS_TYPE = 'text/event-stream'

/** One request to the node. */
export interface Request {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** From `/`, below the URL of the node. */
  readonly path: string
  readonly query?: Record<string, string | number | undefined>
  /** Sent as JSON. */
  readonly body?: unknown
  /** Sent as it is, instead of `body`: an archive. A stream can be sent once only. */
  readonly archive?: Blob | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>
  /** Aborting ends the request at once; it is never tried again. */
  readonly signal?: AbortSignal | undefined
  /** How long the caller waits for the answer, all tries together; of a stream, for its head. 0: as long as it takes. */
  readonly requestTimeoutMs?: number | undefined
  /**
   * Whether a second try does no harm when the first may have been carried out: then any error that is `retryable` is
   * tried again, else only one that says that nothing was begun. Default: of all but a POST.
   */
  readonly repeatable?: boolean
}

/** A request with its own way of reading the answer; both may depend on how many tries were before. */
export interface Exchange<T> extends Request {
  accept(tries: number): string
  /** Under one key the node runs a request once, and gives its answer to every try; it then outlives its connection. */
  idempotencyKey?(tries: number): string | undefined
  read(response: Response, scope: Scope): Promise<T>
}

/** What checks an answer: a schema of `protocol`. */
export interface Schema<T> {
  safeParse(
    value: unknown,
  ): { success: true; data: T } | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } }
}

export interface Transport {
  readonly url: string
  /** Sends, tries again where that is safe and may help, and returns what `read` makes of the answer. */
  exchange<T>(exchange: Exchange<T>): Promise<T>
  /** The answer as JSON, its shape checked. */
  json<T>(request: Request & Pick<Exchange<T>, 'idempotencyKey'>, schema: Schema<T>): Promise<T>
  /** For an answer without a body. */
  none(request: Request): Promise<void>
  /** Opens a stream of events. Tried again only until its head has arrived. Batches: what one read has completed. */
  stream(request: Request): AsyncGenerator<SseMessage[], void, undefined>
}

export interface TransportOptions {
  readonly url: string
  readonly apiKey: string | undefined
  readonly fetch: typeof globalThis.fetch
  readonly requestTimeoutMs: number
  readonly retry: RetryPolicy
}

export const transport = (options: TransportOptions): Transport => {
  const { url, retry } = options

  const headersOf = (exchange: Exchange<unknown>, tries: number): Headers => {
    const headers = new Headers({ accept: exchange.accept(tries) })
    if (options.apiKey !== undefined) headers.set('authorization', `Bearer ${options.apiKey}`)
    if (exchange.body !== undefined) headers.set('content-type', JSON_TYPE)
    if (exchange.archive !== undefined) headers.set('content-type', 'application/x-tar')
    const key = exchange.idempotencyKey?.(tries)
    if (key !== undefined) headers.set('idempotency-key', key)
    return headers
  }

  const send = async (exchange: Exchange<unknown>, tries: number, scope: Scope): Promise<Response> => {
    const headers = headersOf(exchange, tries)
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries(exchange.query ?? {}))
      if (value !== undefined) query.set(name, String(value))
    const target = `${url}${exchange.path}${query.size > 0 ? `?${query}` : ''}`
    const response = await options.fetch(target, {
      method: exchange.method,
      headers,
      signal: scope.signal,
      // A redirect would send the command and its files to whoever it names.
      redirect: 'error',
      ...(exchange.body !== undefined && { body: JSON.stringify(exchange.body) }),
      // `fetch` wants to be told that it need not wait for the answer's head before it has sent a stream.
      ...(exchange.archive !== undefined && { body: exchange.archive, duplex: 'half' }),
    })
    if (!response.ok) throw await failureOf(response)
    const type = response.headers.get('content-type') ?? ''
    const wanted = exchange.accept(tries)
    if (response.status !== 204 && !type.startsWith(wanted)) {
      await response.body?.cancel().catch(() => undefined)
      throw badResponse(`${target} answered ${response.status} with ${type || 'no content type'}, not ${wanted}`)
    }
    return response
  }

  const tryAll = async <T>(exchange: Exchange<T>, scope: Scope): Promise<T> => {
    const repeatable = exchange.repeatable ?? exchange.method !== 'POST'
    for (let tries = 0; ; tries++) {
      try {
        return await exchange.read(await send(exchange, tries, scope), scope)
      } catch (thrown) {
        if (scope.signal.aborted) throw scope.signal.reason
        const error = connectionFailure(thrown, `${url}${exchange.path}`)
        const delayMs = backoffMs(retry, tries, error.retryAfterMs)
        if (!error.retryable || tries >= retry.retries || !(repeatable || neverStarted(error))) throw error
        if (exchange.archive instanceof ReadableStream) throw error
        if ((error.retryAfterMs ?? 0) > SDK_LIMITS.maxRetryAfterMs || Date.now() + delayMs >= scope.deadline)
          throw error
        await pause(delayMs, scope.signal)
      }
    }
  }

  const exchange = async <T>(what: Exchange<T>): Promise<T> => {
    const scope = scopeOf(what, options.requestTimeoutMs)
    try {
      return await tryAll(what, scope)
    } finally {
      scope.release()
    }
  }

  async function* stream(request: Request): AsyncGenerator<SseMessage[], void, undefined> {
    const scope = scopeOf(request, options.requestTimeoutMs)
    try {
      const response = await tryAll({ ...request, accept: () => EVENTS_TYPE, read: async (head) => head }, scope)
      scope.stopClock()
      yield* readMessages(response)
    } catch (error) {
      throw scope.signal.aborted ? scope.signal.reason : connectionFailure(error, `${url}${request.path}`)
    } finally {
      scope.release()
    }
  }

  return {
    url,
    exchange,
    stream,
    json: (request, schema) =>
      exchange({
        ...request,
        accept: () => JSON_TYPE,
        read: (response) => readJson(response, schema, request.path),
      }),
    none: (request) =>
      exchange({
        ...request,
        accept: () => '',
        read: async (response) => {
          await response.body?.cancel()
        },
      }),
  }
}

/** The events of an answer, as batches. Leaving early closes the connection, by which the node knows that nobody reads. */
export async function* readMessages(response: Response): AsyncGenerator<SseMessage[], void, undefined> {
  const reader = response.body?.getReader()
  if (reader === undefined) return
  const parser = sseParser()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      const messages = parser.push(value)
      if (messages.length > 0) yield messages
    }
  } finally {
    await reader.cancel().catch(() => undefined)
  }
}

export const readJson = async <T>(response: Response, schema: Schema<T>, from: string): Promise<T> =>
  checked(schema, parseJson(await readText(response, SDK_LIMITS.maxResponseBytes), from), from)

export const parseJson = (text: string, from: string): unknown => {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw badResponse(`${from}: the answer is not JSON`, error)
  }
}

/** Checks the shape of an answer and returns it as it came: members that a newer node adds stay. */
export const checked = <T>(schema: Schema<T>, value: unknown, from: string): T => {
  const parsed = schema.safeParse(value)
  if (parsed.success) return value as T
  const [issue] = parsed.error.issues
  throw badResponse(`${from}: ${issue?.path.join('.') || 'the answer'}: ${issue?.message ?? 'has another shape'}`)
}
