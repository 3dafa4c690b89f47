import { backoffMs, pause, type RetryPolicy } from './backoff.ts'
import { readText } from './body.ts'
import { escapeBytes, escapeText } from './escape.ts'
import { badResponse, connectionFailure, failureOf, neverStarted, wasRefused } from './failure.ts'
import type { RouteSource } from './jobs/route-source.ts'
import { SDK_LIMITS } from './limits.ts'
import { type Scope, scopeOf } from './scope.ts'
import type { Socket, SocketOpener } from './socket/socket.ts'
import { type SseMessage, sseParser } from './sse.ts'

export const JSON_TYPE = 'application/json'
export const EVENTS_TYPE = 'text/event-stream'
const TAR_TYPE = 'application/x-tar'

/** What `fetch` sends as it is. */
export type Content = Blob | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>

/** One request to the node. */
export interface Request {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** From `/`, below the URL of the node. */
  readonly path: string
  readonly query?: Record<string, string | number | boolean | Uint8Array | undefined>
  /** Sent as JSON. */
  readonly body?: unknown
  /** Sent as it is, instead of `body`: a file, an archive. A stream can be sent once only. */
  readonly content?: Content
  /** Of `content`. Default: a tar. */
  readonly contentType?: string
  readonly headers?: Readonly<Record<string, string>>
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
  /**
   * The answer as bytes, read at the caller's pace; its body must be read or cancelled. Tried again only until its head
   * has arrived.
   */
  open(request: Request): Promise<OpenAnswer>
  /** A WebSocket. Tried again, until it is open, where the error is `retryable`. */
  socket(request: SocketCall): Promise<Socket>
  /** Opens a stream of events. Tried again only until its head has arrived. Batches: what one read has completed. */
  stream(request: Request): AsyncGenerator<SseMessage[], void, undefined>
}

export interface OpenAnswer {
  readonly headers: Headers
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>
}

export interface SocketCall extends Pick<Request, 'path' | 'query' | 'signal' | 'requestTimeoutMs'> {
  /** A path whose `GET` fails for the same reason, for platforms whose sockets do not tell theirs. */
  readonly like: string
}

export interface TransportOptions {
  readonly url: string
  readonly apiKey: string | undefined
  readonly fetch: typeof globalThis.fetch
  readonly requestTimeoutMs: number
  readonly retry: RetryPolicy
  readonly sockets: () => Promise<SocketOpener>
  /** Where to go, where that may change: then `url` and `apiKey` are of whoever says so. */
  readonly route?: RouteSource
}

/** Where one try of a request goes. */
interface Place {
  readonly url: string
  readonly apiKey: string | undefined
}

export const transport = (options: TransportOptions): Transport => {
  const { url, retry } = options

  const place = async (signal: AbortSignal): Promise<Place> => {
    if (!options.route) return options
    // Others wait for the same answer: whoever leaves does not take it along.
    const { url, token } = await unlessAborted(options.route.current(), signal)
    return { url, apiKey: token }
  }
  const targetOf = ({ url }: Place, { path, query = {} }: Pick<Request, 'path' | 'query'>): string => {
    const pairs = Object.entries(query).flatMap(([name, value]) =>
      value === undefined ? [] : [`${name}=${value instanceof Uint8Array ? escapeBytes(value) : escapeText(value)}`],
    )
    return `${url}${path}${pairs.length > 0 ? `?${pairs.join('&')}` : ''}`
  }

  const headersOf = ({ apiKey }: Place, exchange: Exchange<unknown>, tries: number): Headers => {
    const headers = new Headers(exchange.headers)
    headers.set('accept', exchange.accept(tries) || '*/*')
    if (apiKey !== undefined) headers.set('authorization', `Bearer ${apiKey}`)
    if (exchange.body !== undefined) headers.set('content-type', JSON_TYPE)
    if (exchange.content !== undefined) headers.set('content-type', exchange.contentType ?? TAR_TYPE)
    const key = exchange.idempotencyKey?.(tries)
    if (key !== undefined) headers.set('idempotency-key', key)
    return headers
  }

  const send = async (exchange: Exchange<unknown>, tries: number, scope: Scope): Promise<Response> => {
    const where = await place(scope.signal)
    const headers = headersOf(where, exchange, tries)
    const target = targetOf(where, exchange)
    const response = await options.fetch(target, {
      method: exchange.method,
      headers,
      signal: scope.signal,
      // A redirect would send the command and its files to whoever it names.
      redirect: 'error',
      ...(exchange.body !== undefined && { body: JSON.stringify(exchange.body) }),
      // `fetch` wants to be told that it need not wait for the answer's head before it has sent a stream.
      ...(exchange.content !== undefined && { body: exchange.content, duplex: 'half' }),
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
        const isElsewhere = options.route?.failed(error) ?? false
        if (!(error.retryable || isElsewhere) || tries >= retry.retries) throw error
        if (!repeatable && !neverStarted(error) && !(isElsewhere && wasRefused(error))) throw error
        if (exchange.content instanceof ReadableStream) throw error
        if ((error.retryAfterMs ?? 0) > SDK_LIMITS.maxRetryAfterMs || Date.now() + delayMs >= scope.deadline)
          throw error
        await pause(delayMs, scope.signal)
      }
    }
  }

  const openSocket = async (call: SocketCall, scope: Scope): Promise<Socket> => {
    const opener = await options.sockets()
    for (let tries = 0; ; tries++) {
      try {
        const where = await place(scope.signal)
        const target = targetOf(where, call).replace(/^http/, 'ws')
        return await opener.open({ url: target, apiKey: where.apiKey, signal: scope.signal })
      } catch (thrown) {
        if (scope.signal.aborted) throw scope.signal.reason
        // A browser says of a socket that was refused only that it is not open.
        if (!opener.saysWhy)
          await tryAll({ method: 'GET', path: call.like, accept: () => '', read: drop, repeatable: false }, scope)
        const error = connectionFailure(thrown, `${url}${call.path}`)
        const delayMs = backoffMs(retry, tries, error.retryAfterMs)
        const mayTryAgain = (options.route?.failed(error) ?? false) || error.retryable
        if (!mayTryAgain || tries >= retry.retries || Date.now() + delayMs >= scope.deadline) throw error
        await pause(delayMs, scope.signal)
      }
    }
  }

  const open = async (request: Request): Promise<OpenAnswer> => {
    const scope = scopeOf(request, options.requestTimeoutMs)
    const failed = (error: unknown): unknown => {
      scope.release()
      return scope.signal.aborted ? scope.signal.reason : connectionFailure(error, `${url}${request.path}`)
    }
    try {
      const response = await tryAll({ ...request, accept: () => '', read: async (head) => head }, scope)
      scope.stopClock()
      return { headers: response.headers, body: watched(response, failed, scope.release) }
    } catch (error) {
      throw failed(error)
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
    open,
    socket: async (call) => {
      const scope = scopeOf({ method: 'GET', ...call }, options.requestTimeoutMs)
      try {
        return await openSocket(call, scope)
      } finally {
        scope.release()
      }
    },
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
        read: drop,
      }),
  }
}

const unlessAborted = async <T>(work: Promise<T>, signal: AbortSignal): Promise<T> => {
  const { promise, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(signal.reason)
  if (signal.aborted) onAbort()
  else signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

const drop = async (response: Response): Promise<void> => {
  await response.body?.cancel()
}

/** The body of an answer, with the client's own errors; nothing is read ahead. */
const watched = (
  response: Response,
  failed: (error: unknown) => unknown,
  done: () => void,
): ReadableStream<Uint8Array<ArrayBuffer>> => {
  const reader = response.body?.getReader()
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          const step = await reader?.read()
          if (step?.value !== undefined) return controller.enqueue(step.value)
          done()
          controller.close()
        } catch (error) {
          controller.error(failed(error))
        }
      },
      async cancel() {
        done()
        await reader?.cancel().catch(() => undefined)
      },
    },
    { highWaterMark: 0 },
  )
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
