import { type ErrorCode, type Job, jobHasEnded, jobSchema } from '@bramble/protocol'
import { backoffMs, pause, type RetryPolicy } from '../backoff.ts'
import type { CallOptions } from '../call.ts'
import { connectionFailure } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import { scopeOf } from '../scope.ts'
import { type JobsContext, jobEvents, jobPath } from './job-events.ts'

export interface WaitOptions {
  /** Aborting ends the wait, and leaves the job as it is. */
  readonly signal?: AbortSignal | undefined
  /** How long to wait for its end: `request_timeout` after it, and the job goes on. Default: as long as it takes. */
  readonly timeoutMs?: number | undefined
}

/** What no other way of asking changes. */
const FINAL = new Set<ErrorCode>(['not_found', 'unauthorized', 'forbidden', 'invalid_request'])

const pollPace = (retry: RetryPolicy): RetryPolicy => ({ ...retry, firstBackoffMs: 250, maxBackoffMs: 5_000 })

export const getJob = (context: JobsContext, id: string, options: CallOptions = {}): Promise<Job> =>
  context.transport.json({ method: 'GET', path: jobPath(id), ...options }, jobSchema)

const byEvents = async (context: JobsContext, id: string, signal: AbortSignal): Promise<Job | undefined> => {
  for await (const event of jobEvents(context, id, { signal }))
    if (event.type === 'job' && jobHasEnded(event.job.status)) return event.job
  return undefined
}

/** Asks again and again, less and less often. Failures that may pass are borne for `SDK_LIMITS.reconnectMs`. */
const byPolling = async (context: JobsContext, id: string, signal: AbortSignal): Promise<Job> => {
  const pace = pollPace(context.retry)
  let failingSince: number | undefined
  for (let tries = 0; ; tries += 1) {
    try {
      const job = await getJob(context, id, { signal })
      if (jobHasEnded(job.status)) return job
      failingSince = undefined
    } catch (thrown) {
      if (signal.aborted) throw signal.reason
      const error = connectionFailure(thrown, id)
      failingSince ??= Date.now()
      if (!error.retryable || Date.now() - failingSince > SDK_LIMITS.reconnectMs) throw error
    }
    await pause(backoffMs(pace, tries), signal)
  }
}

/** Resolves with the job once it has ended, whatever way. By its events; by asking again where no stream of them can be had. */
export const waitForJob = async (
  context: JobsContext,
  id: string,
  { signal, timeoutMs }: WaitOptions = {},
): Promise<Job> => {
  const scope = scopeOf(
    { method: 'GET', path: `${jobPath(id)} (its end)`, signal, requestTimeoutMs: timeoutMs ?? 0 },
    0,
  )
  try {
    const job = await byEvents(context, id, scope.signal).catch((thrown) => {
      if (scope.signal.aborted) throw scope.signal.reason
      const error = connectionFailure(thrown, id)
      if (FINAL.has(error.code)) throw error
      return undefined
    })
    return job ?? (await byPolling(context, id, scope.signal))
  } finally {
    scope.release()
  }
}
