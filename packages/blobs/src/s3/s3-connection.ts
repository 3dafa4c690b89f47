import { setTimeout as pause } from 'node:timers/promises'
import { S3Client } from '@aws-sdk/client-s3'
import { BrambleError } from '@bramble/protocol'
import { type Failure, failureOf, unavailable } from './s3-error.ts'
import type { ObjectStoreLocation } from './s3-url.ts'

/** What passed, and what failed: for metrics. */
export type S3Event =
  | { readonly kind: 'sent' | 'received'; readonly bytes: number }
  | { readonly kind: 'request'; readonly failure: Failure | undefined }

export interface S3Limits {
  /** Until a connection stands. */
  readonly connectMs: number
  /** In which nothing passes on a connection that waits for something. */
  readonly idleMs: number
  /** For a request with all of its attempts, until its answer begins. */
  readonly requestMs: number
  readonly attempts: number
  /** Before the second attempt, at most; twice as long before each that follows. */
  readonly pauseMs: number
}

export const S3_LIMITS: S3Limits = { connectMs: 3000, idleMs: 10_000, requestMs: 20_000, attempts: 5, pauseMs: 100 }

const pauseMaxMs = 3000
const maxSockets = 64

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  /** Other than `requestMs`: a body that takes its time. */
  readonly withinMs?: number
}

export interface S3Connection {
  readonly client: S3Client
  readonly location: ObjectStoreLocation
  readonly limits: S3Limits
  readonly observe: (event: S3Event) => void
  /**
   * Sends a request, again where a moment may help, with growing random pauses, within bounds of time. Rejects with
   * `store_unavailable`, or with the signal's reason; what the server says of the object itself (`missing`, `changed`,
   * `range`) is given as `S3Answer`.
   */
  call<T>(what: string, send: (signal: AbortSignal) => Promise<T>, options?: CallOptions): Promise<T | S3Answer>
  close(): void
}

/** An answer that is no success, and no failure of the store. */
export class S3Answer {
  readonly failure: 'missing' | 'changed' | 'range'
  constructor(failure: 'missing' | 'changed' | 'range') {
    this.failure = failure
  }
}

export interface S3ConnectionOptions {
  readonly location: ObjectStoreLocation
  readonly limits?: Partial<S3Limits> | undefined
  readonly observe?: ((event: S3Event) => void) | undefined
  /** 0 (inclusive) to 1 (exclusive). */
  readonly random?: (() => number) | undefined
}

export const openS3Connection = (options: S3ConnectionOptions): S3Connection => {
  const { location, observe = () => undefined, random = Math.random } = options
  const limits = { ...S3_LIMITS, ...options.limits }
  const credentials = location.credentials()
  const client = new S3Client({
    ...(location.endpoint !== undefined && { endpoint: location.endpoint }),
    ...(location.region !== undefined && { region: location.region }),
    ...(credentials && { credentials }),
    forcePathStyle: location.pathStyle,
    // Repeating is done here, where it has a bound in time.
    maxAttempts: 1,
    // Bodies are verified by their hash, which the server does not choose.
    responseChecksumValidation: 'WHEN_REQUIRED',
    expectContinueHeader: false,
    requestHandler: {
      connectionTimeout: limits.connectMs,
      socketTimeout: limits.idleMs,
      httpAgent: { keepAlive: true, maxSockets },
      httpsAgent: { keepAlive: true, maxSockets },
    },
  })

  const call = async <T>(
    what: string,
    send: (signal: AbortSignal) => Promise<T>,
    { signal, withinMs = limits.requestMs }: CallOptions = {},
  ): Promise<T | S3Answer> => {
    // Both end with this call: a body that the answer leads to is read beyond it, and stopped by its reader.
    using timer = deadline(withinMs)
    const late = timer.signal
    using both = follow(signal, late)
    const either = both.signal
    for (let attempt = 1; ; attempt++) {
      signal?.throwIfAborted()
      try {
        const answer = await send(either)
        observe({ kind: 'request', failure: undefined })
        return answer
      } catch (thrown) {
        signal?.throwIfAborted()
        if (thrown instanceof BrambleError) throw thrown
        const failure = failureOf(thrown)
        observe({ kind: 'request', failure })
        if (failure === 'missing' || failure === 'changed' || failure === 'range') return new S3Answer(failure)
        if (late.aborted) throw unavailable(location.label, what, new Error(`no answer within ${withinMs} ms`))
        if (failure === 'refused' || attempt === limits.attempts) throw unavailable(location.label, what, thrown)
        const most = Math.min(pauseMaxMs, limits.pauseMs * 2 ** (attempt - 1))
        await pause(most / 2 + (random() * most) / 2, undefined, { signal: either }).catch(() => undefined)
        signal?.throwIfAborted()
        if (late.aborted) throw unavailable(location.label, what, thrown)
      }
    }
  }

  return { client, location, limits, observe, call, close: () => client.destroy() }
}

const deadline = (ms: number): { signal: AbortSignal } & Disposable => {
  const controller = new AbortController()
  const timer = setTimeout(() => controller.abort(new Error(`no answer within ${ms} ms`)), ms)
  return { signal: controller.signal, [Symbol.dispose]: () => clearTimeout(timer) }
}

/**
 * Aborted when one of them is, until it is disposed of. Unlike `AbortSignal.any`, nothing that listens to it is kept by a signal
 * that lives as long as the store: the client's listeners lead to the bodies of requests.
 */
const follow = (...signals: (AbortSignal | undefined)[]): { signal: AbortSignal } & Disposable => {
  const controller = new AbortController()
  const abort = (): void => controller.abort(signals.find((signal) => signal?.aborted)?.reason)
  for (const signal of signals) signal?.addEventListener('abort', abort)
  if (signals.some((signal) => signal?.aborted)) abort()
  return {
    signal: controller.signal,
    [Symbol.dispose]: () => {
      for (const signal of signals) signal?.removeEventListener('abort', abort)
    },
  }
}
