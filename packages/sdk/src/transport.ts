import { BrambleError, newId } from '@bramble/protocol'
import { backoffMs, pause, type RetryPolicy } from './backoff.ts'
import { readText } from './body.ts'
import { badResponse, cancelled, connectionFailure, failureOf } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'
import { type SseMessage, sseParser } from './sse.ts'

/** One request to the node. */
export interface Request {
  readonly method: 'GET' | 'POST' | 'DELETE'
  /** From `/`, below the URL of the node. */
  readonly path: string
  readonly query?: Record<string, string | number | undefined>
  readonly body?: unknown
  /** Aborting ends the request at once; it is never tried again. */
  readonly signal?: AbortSignal | undefined
  /** How long the caller waits for the answer, all tries together; of a stream, for its head. 0: as long as it takes. */
  readonly requestTimeoutMs?: number | undefined
  /** Answers other than 2xx whose body is an answer all the same. */
  readonly acceptStatus?: (status: number) => boolean
}

/** What checks an answer: a schema of `protocol`. */
export interface Schema<T> {
  safeParse(
    value: unknown,
  ): { success: true; data: T } | { success: false; error: { issues: { path: PropertyKey[]; message: string }[] } }
}

export interface Transport {
  readonly url: string
  /** Sends, tries again where that is safe and may help, and returns the answer with its shape checked. */
  json<T>(request: Request, schema: Schema<T>): Promise<T>
  /** Sends a request whose answer has no body. */
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

/** The clock and the signal of one call, as one signal whose reason is always a `BrambleError`. */
interface Scope {
  readonly signal: AbortSignal
  readonly deadline: number
  stopClock(): void
  release(): void
}

const scopeOf = (request: Request, defaultTimeoutMs: number): Scope => {
  const controller = new AbortController()
  const outer = request.signal
  const onAbort = () => controller.abort(cancelled(outer?.reason))
  if (outer?.aborted) onAbort()
  else outer?.addEventListener('abort', onAbort, { once: true })
  const waitMs = request.requestTimeoutMs ?? defaultTimeoutMs
  const detail = `${request.method} ${request.path} had no answer within ${waitMs} ms`
  const timer =
    waitMs > 0 && waitMs <= SDK_LIMITS.maxTimerMs
      ? setTimeout(() => controller.abort(new BrambleError('request_timeout', { detail })), waitMs)
      : undefined
  return {
    signal: controller.signal,
    deadline: timer === undefined ? Number.POSITIVE_INFINITY : Date.now() + waitMs,
    stopClock: () => clearTimeout(timer),
    release: () => {
      clearTimeout(timer)
      outer?.removeEventListener('abort', onAbort)
    },
  }
}

export const transport = (options: TransportOptions): Transport => {
  const { url, fetch, retry } = options

  const send = async (request: Request, accept: string, headers: Headers, scope: Scope): Promise<Response> => {
    const query = new URLSearchParams()
    for (const [name, value] of Object.entries(request.query ?? {}))
      if (value !== undefined) query.set(name, String(value))
    const target = `${url}${request.path}${query.size > 0 ? `?${query}` : ''}`
    let response: Response
    try {
      response = await fetch(target, {
        method: request.method,
        headers,
        signal: scope.signal,
        // A redirect would send the command and its files to whoever it names.
        redirect: 'error',
        ...(request.body !== undefined && { body: JSON.stringify(request.body) }),
      })
    } catch (error) {
      throw scope.signal.aborted ? scope.signal.reason : connectionFailure(error, target)
    }
    if (!response.ok && request.acceptStatus?.(response.status) !== true) throw await failureOf(response)
    const type = response.headers.get('content-type') ?? ''
    if (response.status !== 204 && !type.startsWith(accept)) {
      await response.body?.cancel().catch(() => undefined)
      throw badResponse(`${target} answered ${response.status} with ${type || 'no content type'}, not ${accept}`)
    }
    return response
  }

  /** Tries until `attempt` gives a value. POSTs carry one idempotency key for all tries, so a second cannot run twice. */
  const withRetries = async <T>(
    request: Request,
    accept: string,
    scope: Scope,
    attempt: (response: Response) => Promise<T>,
  ): Promise<T> => {
    const headers = new Headers({ accept })
    if (options.apiKey !== undefined) headers.set('authorization', `Bearer ${options.apiKey}`)
    if (request.body !== undefined) headers.set('content-type', 'application/json')
    if (request.method === 'POST' && retry.retries > 0) headers.set('idempotency-key', newId('request'))
    for (let tries = 0; ; tries++) {
      try {
        return await attempt(await send(request, accept, headers, scope))
      } catch (thrown) {
        if (scope.signal.aborted) throw scope.signal.reason
        const error = connectionFailure(thrown, `${url}${request.path}`)
        const delayMs = backoffMs(retry, tries, error.retryAfterMs)
        const hopeless =
          !error.retryable || tries >= retry.retries || (error.retryAfterMs ?? 0) > SDK_LIMITS.maxRetryAfterMs
        if (hopeless || Date.now() + delayMs >= scope.deadline) throw error
        await pause(delayMs, scope.signal)
      }
    }
  }

  const json = async <T>(request: Request, schema: Schema<T>): Promise<T> => {
    const scope = scopeOf(request, options.requestTimeoutMs)
    try {
      return await withRetries(request, 'application/json', scope, async (response) =>
        checked(schema, parseJson(await readText(response, SDK_LIMITS.maxResponseBytes), request.path), request.path),
      )
    } finally {
      scope.release()
    }
  }

  const none = async (request: Request): Promise<void> => {
    const scope = scopeOf(request, options.requestTimeoutMs)
    try {
      await withRetries(request, '', scope, async (response) => {
        await response.body?.cancel()
      })
    } finally {
      scope.release()
    }
  }

  async function* stream(request: Request): AsyncGenerator<SseMessage[], void, undefined> {
    const scope = scopeOf(request, options.requestTimeoutMs)
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
    try {
      const response = await withRetries(request, 'text/event-stream', scope, async (answer) => answer)
      scope.stopClock()
      reader = response.body?.getReader()
      const parser = sseParser()
      while (reader !== undefined) {
        const { done, value } = await reader.read()
        if (done) return
        const messages = parser.push(value)
        if (messages.length > 0) yield messages
      }
    } catch (error) {
      throw scope.signal.aborted ? scope.signal.reason : connectionFailure(error, `${url}${request.path}`)
    } finally {
      scope.release()
      // Leaving early closes the connection, by which the node knows that nobody listens any more.
      await reader?.cancel().catch(() => undefined)
    }
  }

  return { url, json, none, stream }
}

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
