import { BrambleError, type JobEvent, jobEventSchema, jobHasEnded, problemSchema } from '@bramble/protocol'
import { backoffMs, pause, type RetryPolicy } from '../backoff.ts'
import type { CallOptions } from '../call.ts'
import { badResponse, cancelled, connectionFailure } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import type { SseMessage } from '../sse.ts'
import { checked, parseJson, type Transport } from '../transport.ts'

export interface JobsContext {
  readonly transport: Transport
  readonly retry: RetryPolicy
}

export interface JobEventsOptions extends CallOptions {
  /** Only what came after the event with this `seq`. Default: the job as it is now, then what happens. */
  readonly since?: number | undefined
}

export const jobPath = (id: string): string => `/api/v1/jobs/${encodeURIComponent(id)}`

const KNOWN = new Set(['status', 'waiting', 'execution', 'stdout', 'stderr', 'corrected', 'job'])

/** One event, checked; undefined for a kind that this client does not know. Throws what the network says went wrong. */
const eventOf = (message: SseMessage): JobEvent | undefined => {
  const value = parseJson(message.data, 'the stream') as { type?: unknown; error?: unknown } | null
  if (typeof value?.type !== 'string') throw badResponse('an event of the stream has no type')
  if (value.type === 'error') throw BrambleError.fromProblem(checked(problemSchema, value.error, 'the event error'))
  return KNOWN.has(value.type) ? checked(jobEventSchema, value, `the event ${value.type}`) : undefined
}

const endsJob = (event: JobEvent): boolean =>
  (event.type === 'job' && jobHasEnded(event.job.status)) || (event.type === 'status' && jobHasEnded(event.status))

/** What one connection brings. One that brings nothing for too long is taken for dead: half-open ones look like quiet ones. */
async function* connect(
  { transport }: JobsContext,
  id: string,
  { since, signal, requestTimeoutMs }: JobEventsOptions,
): AsyncGenerator<SseMessage[], void, undefined> {
  const silence = new AbortController()
  const onSilence = () =>
    silence.abort(new BrambleError('connection_failed', { detail: `job ${id}: the stream of events is silent` }))
  const batches = transport.stream({
    method: 'GET',
    path: `${jobPath(id)}/events`,
    query: { since },
    signal: signal ? AbortSignal.any([signal, silence.signal]) : silence.signal,
    requestTimeoutMs,
  })
  try {
    for (;;) {
      const timer = setTimeout(onSilence, SDK_LIMITS.streamSilenceMs)
      const step = await batches.next().finally(() => clearTimeout(timer))
      if (step.done) return
      yield step.value
    }
  } finally {
    await batches.return()
  }
}

/**
 * What happens to a job until it has ended. A connection that is lost is made anew from the last event on, for as long as
 * `SDK_LIMITS.reconnectMs` without one; the first one is not waited for so long.
 */
export async function* jobEvents(
  context: JobsContext,
  id: string,
  options: JobEventsOptions = {},
): AsyncGenerator<JobEvent, void, undefined> {
  let since = options.since
  let ended = false
  let lostAt: number | undefined
  let begun = false
  for (let tries = 0; !ended; tries += 1) {
    try {
      for await (const messages of connect(context, id, { ...options, since })) {
        begun = true
        lostAt = undefined
        tries = 0
        for (const message of messages) {
          const event = eventOf(message)
          if (event === undefined) continue
          since = event.seq
          ended ||= endsJob(event)
          yield event
        }
      }
      if (!ended && !begun) throw badResponse(`job ${id}: the stream of events ended before the job`)
    } catch (thrown) {
      if (options.signal?.aborted) throw cancelled(options.signal.reason)
      const error = connectionFailure(thrown, id)
      lostAt ??= Date.now()
      if (!begun || !error.retryable || Date.now() - lostAt > SDK_LIMITS.reconnectMs) throw error
    }
    if (!ended) await pause(backoffMs(context.retry, tries), options.signal ?? new AbortController().signal)
  }
}
