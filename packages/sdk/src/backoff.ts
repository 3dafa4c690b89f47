import { SDK_LIMITS } from './limits.ts'

export interface RetryPolicy {
  /** Tries after the first. */
  readonly retries: number
  readonly firstBackoffMs: number
  readonly maxBackoffMs: number
  /** In 0..1; replaced in simulations. */
  readonly random: () => number
}

export const retryPolicy = (options: Partial<RetryPolicy> = {}): RetryPolicy => ({
  retries: options.retries ?? SDK_LIMITS.retries,
  firstBackoffMs: options.firstBackoffMs ?? SDK_LIMITS.firstBackoffMs,
  maxBackoffMs: options.maxBackoffMs ?? SDK_LIMITS.maxBackoffMs,
  random: options.random ?? Math.random,
})

/**
 * How long to wait before retry `attempt` (0 for the first): exponential, half of it random so that clients that failed
 * together do not come back together, and never less than what the server asked for.
 */
export const backoffMs = (policy: RetryPolicy, attempt: number, retryAfterMs = 0): number => {
  const step = Math.min(policy.maxBackoffMs, policy.firstBackoffMs * 2 ** attempt)
  return Math.max(retryAfterMs, step / 2 + (step / 2) * policy.random())
}

/** Resolves after `delayMs`, or rejects with the signal's reason. */
export const pause = (delayMs: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const onAbort = () => {
      clearTimeout(timer)
      reject(signal.reason)
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, delayMs)
    signal.addEventListener('abort', onAbort, { once: true })
  })
