/** One piece of work that several callers wait for; it is aborted when the last of them has left. */
export interface SharedWork<T, P> {
  /**
   * Joins the work under `key`, or starts it. A caller whose signal aborts leaves with its reason; the last to leave
   * aborts the work and waits for its end first. `onJoined` is called where somebody else had started it.
   */
  run(
    key: string,
    caller: { signal: AbortSignal; onProgress: (progress: P) => void },
    work: (signal: AbortSignal, onProgress: (progress: P) => void) => Promise<T>,
    onJoined?: () => Promise<void>,
  ): Promise<T>
}

interface Job<T, P> {
  readonly abort: AbortController
  readonly listeners: Set<(progress: P) => void>
  readonly done: Promise<T>
  waiting: number
}

export const sharedWork = <T, P>(): SharedWork<T, P> => {
  const jobs = new Map<string, Job<T, P>>()

  const start = (
    key: string,
    work: (signal: AbortSignal, onProgress: (progress: P) => void) => Promise<T>,
  ): Job<T, P> => {
    const abort = new AbortController()
    const listeners = new Set<(progress: P) => void>()
    const done = work(abort.signal, (progress) => {
      for (const listener of listeners) listener(progress)
    })
    const job: Job<T, P> = { abort, listeners, done, waiting: 0 }
    const forget = () => {
      if (jobs.get(key) === job) jobs.delete(key)
    }
    done.then(forget, forget)
    jobs.set(key, job)
    return job
  }

  return {
    async run(key, { signal, onProgress }, work, onJoined) {
      signal.throwIfAborted()
      const running = jobs.get(key)
      const job = running ?? start(key, work)
      job.waiting++
      const listener = (progress: P) => onProgress(progress)
      job.listeners.add(listener)
      const left = Promise.withResolvers<never>()
      const leave = () => left.reject(signal.reason)
      signal.addEventListener('abort', leave, { once: true })
      try {
        if (running) await onJoined?.()
        return await Promise.race([job.done, left.promise])
      } finally {
        signal.removeEventListener('abort', leave)
        job.listeners.delete(listener)
        job.waiting--
        if (job.waiting === 0 && signal.aborted) {
          // Whoever comes from here on starts anew.
          if (jobs.get(key) === job) jobs.delete(key)
          job.abort.abort(signal.reason)
          await job.done.catch(() => {})
        }
      }
    },
  }
}
