import { BrambleError } from '@bramble/protocol'
import { cancelled } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'

/** The clock and the signal of one call, as one signal whose reason is always a `BrambleError`. */
export interface Scope {
  readonly signal: AbortSignal
  /** In milliseconds since 1970. */
  readonly deadline: number
  stopClock(): void
  release(): void
}

export interface Scoped {
  readonly method: string
  readonly path: string
  readonly signal?: AbortSignal | undefined
  readonly requestTimeoutMs?: number | undefined
}

export const scopeOf = (request: Scoped, defaultTimeoutMs: number): Scope => {
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
