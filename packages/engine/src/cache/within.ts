import { setTimeout as after } from 'node:timers/promises'

/** What `work` gives within `ms`; undefined where it takes longer, and its signal is aborted then. Throws what it throws. */
export const within = async <T>(
  ms: number,
  work: (signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): Promise<T | undefined> => {
  const late = new AbortController()
  const patience = new AbortController()
  const working = work(signal ? AbortSignal.any([signal, late.signal]) : late.signal)
  working.catch(() => {})
  try {
    return await Promise.race([working, after(ms, undefined, { signal: patience.signal }).catch(() => undefined)])
  } finally {
    patience.abort()
    late.abort()
  }
}
