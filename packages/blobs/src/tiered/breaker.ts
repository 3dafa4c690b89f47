import { BrambleError } from '@bramble/protocol'

export interface BreakerOptions {
  /** For errors: of what. */
  readonly label: string
  /** How long one request may take. */
  readonly withinMs: number
  /** Resolves when the tier answers again. */
  readonly probe: (signal: AbortSignal) => Promise<unknown>
  readonly firstPauseMs: number
  readonly onChange: (state: BreakerState) => void
  readonly random: () => number
}

export type BreakerState = { readonly available: true } | { readonly available: false; readonly reason: string }

/**
 * Stands before a tier that may not answer. The first request that finds that out waits for its time; those after it are
 * told at once, until a probe in the background got an answer.
 */
export interface Breaker {
  /** Rejects with `store_unavailable` in bounded time, also where `run` does not end; its signal is aborted then. */
  run<T>(run: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T>
  readonly state: BreakerState
  /** What is learned elsewhere: that the tier failed. */
  failed(error: BrambleError): void
  close(): void
}

const pauseMaxMs = 30_000

export const isUnavailable = (thrown: unknown): thrown is BrambleError =>
  thrown instanceof BrambleError && thrown.code === 'store_unavailable'

export const openBreaker = (options: BreakerOptions): Breaker => {
  const { label, withinMs, probe, firstPauseMs, onChange, random } = options
  const closing = new AbortController()
  let state: BreakerState = { available: true }
  let pauseMs = firstPauseMs
  let nextProbeMs = 0
  let timer: NodeJS.Timeout | undefined

  const late = (): BrambleError =>
    new BrambleError('store_unavailable', { detail: `${label}: no answer within ${withinMs} ms` })

  /** Rejects after `withinMs`, whatever `run` does. */
  const bounded = async <T>(run: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> => {
    signal?.throwIfAborted()
    const controller = new AbortController()
    const { promise: ended, reject } = Promise.withResolvers<never>()
    const end = (reason: unknown): void => {
      reject(reason)
      controller.abort(reason)
    }
    const clock = setTimeout(() => end(late()), withinMs)
    const abort = (): void => end(signal?.reason)
    const stop = (): void => end(new BrambleError('shutting_down', { detail: `${label} is closed` }))
    signal?.addEventListener('abort', abort)
    closing.signal.addEventListener('abort', stop)
    try {
      const running = run(controller.signal)
      running.catch(() => undefined)
      return await Promise.race([running, ended])
    } finally {
      clearTimeout(clock)
      signal?.removeEventListener('abort', abort)
      closing.signal.removeEventListener('abort', stop)
    }
  }

  const failed = (error: BrambleError): void => {
    const wasAvailable = state.available
    state = { available: false, reason: error.detail }
    if (wasAvailable) onChange(state)
    if (timer || closing.signal.aborted) return
    const delayMs = pauseMs / 2 + (random() * pauseMs) / 2
    pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
    nextProbeMs = Date.now() + delayMs
    timer = setTimeout(() => {
      bounded(probe).then(
        () => {
          timer = undefined
          pauseMs = firstPauseMs
          state = { available: true }
          onChange(state)
        },
        (thrown: unknown) => {
          timer = undefined
          failed(isUnavailable(thrown) ? thrown : error)
        },
      )
    }, delayMs).unref()
  }

  return {
    failed,
    get state() {
      return state
    },
    run: async (run, signal) => {
      if (closing.signal.aborted) throw new BrambleError('shutting_down', { detail: `${label} is closed` })
      if (!state.available)
        throw new BrambleError('store_unavailable', {
          detail: state.reason,
          retryAfterMs: Math.max(100, Math.round(nextProbeMs - Date.now())),
        })
      try {
        return await bounded(run, signal)
      } catch (thrown) {
        if (isUnavailable(thrown)) failed(thrown)
        throw thrown
      }
    },
    close: () => {
      closing.abort()
      clearTimeout(timer)
    },
  }
}
