import { type JobEvent, type JobId, jobHasEnded, LIMITS } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import { jobView } from '../core/views.ts'

/** Who follows a job. Events are let out when what they tell is durable. */
export interface Subscriptions {
  readonly any: (job: JobId) => boolean
  publish(job: JobId, event: JobEvent): void
  /** What a job prints: published, and kept until it ends, the first `maxJobLogBytes` of it. */
  output(job: JobId, event: OutputEvent): void
  /** Ends the streams of a job that has ended, or of all. */
  end(job: JobId): void
  endAll(): void
  /**
   * What happens from now on, after the output that is kept and the state as it is, where `since` is not the last thing that
   * happened. One who takes too little gets the state anew instead of each step.
   */
  follow(read: () => JobState | undefined, options: { since?: number; signal?: AbortSignal }): AsyncIterable<JobEvent>
}

type OutputEvent = Extract<JobEvent, { type: 'stdout' | 'stderr' }>

interface Follower {
  queue: JobEvent[]
  /** Of the output in it. */
  chars: number
  behind: boolean
  ended: boolean
  wake: (() => void) | undefined
}

const MAX_QUEUED_EVENTS = 256
/** Of output, for one who takes too little. */
const MAX_QUEUED_CHARS = 256 * 1024
/** Output of all jobs together that is kept, in characters. */
const MAX_KEPT_CHARS = 64 * 1024 * 1024

export const openSubscriptions = (): Subscriptions => {
  const followers = new Map<JobId, Set<Follower>>()
  const printed = new Map<JobId, { events: OutputEvent[]; chars: number }>()
  let keptChars = 0
  const keep = (job: JobId, event: OutputEvent): void => {
    const kept = printed.get(job) ?? { events: [], chars: 0 }
    const { length } = event.data
    if (kept.chars + length > LIMITS.maxJobLogBytes.value || keptChars + length > MAX_KEPT_CHARS) return
    kept.events.push(event)
    kept.chars += length
    keptChars += length
    printed.set(job, kept)
  }
  const forget = (job: JobId): void => {
    keptChars -= printed.get(job)?.chars ?? 0
    printed.delete(job)
  }
  const wake = (follower: Follower): void => {
    follower.wake?.()
    follower.wake = undefined
  }
  const end = (job: JobId): void => {
    forget(job)
    for (const follower of followers.get(job) ?? []) {
      follower.ended = true
      wake(follower)
    }
    followers.delete(job)
  }

  async function* follow(
    read: () => JobState | undefined,
    { since, signal }: { since?: number; signal?: AbortSignal },
  ): AsyncGenerator<JobEvent> {
    const first = read()
    if (!first) return
    const { id } = first
    const follower: Follower = { queue: [], chars: 0, behind: false, ended: jobHasEnded(first.status), wake: undefined }
    const stop = () => wake(follower)
    if (!follower.ended) {
      const ofJob = followers.get(id) ?? new Set()
      followers.set(id, ofJob.add(follower))
    }
    signal?.addEventListener('abort', stop, { once: true })
    try {
      // Taken now: what is printed from here on is in the queue.
      const before = printed.get(id)?.events.filter(({ seq }) => seq > (since ?? 0)) ?? []
      yield* before
      // Output is counted, and not logged: after a crash the state may be behind what was seen.
      if (follower.ended || since !== first.lastSeq) yield stateEvent(first)
      while (!signal?.aborted) {
        if (follower.behind) {
          follower.behind = false
          const state = read()
          if (state) yield stateEvent(state)
        }
        const event = follower.queue.shift()
        if (event) follower.chars -= charsOf(event)
        if (event) yield event
        else if (follower.ended) return
        else
          await new Promise<void>((resolve) => {
            follower.wake = resolve
            if (signal?.aborted) resolve()
          })
      }
    } finally {
      signal?.removeEventListener('abort', stop)
      const ofJob = followers.get(id)
      ofJob?.delete(follower)
      if (ofJob?.size === 0) followers.delete(id)
    }
  }

  const publish = (job: JobId, event: JobEvent): void => {
    for (const follower of followers.get(job) ?? []) {
      const chars = charsOf(event)
      if (follower.queue.length < MAX_QUEUED_EVENTS && follower.chars + chars <= MAX_QUEUED_CHARS) {
        follower.queue.push(event)
        follower.chars += chars
      } else {
        follower.queue = []
        follower.chars = 0
        follower.behind = true
      }
      wake(follower)
    }
  }

  return {
    any: (job) => followers.has(job),
    publish,
    output: (job, event) => {
      keep(job, event)
      publish(job, event)
    },
    end,
    endAll: () => {
      for (const job of [...followers.keys(), ...printed.keys()]) end(job)
    },
    follow,
  }
}

const charsOf = (event: JobEvent): number => ('data' in event ? event.data.length : 0)

export const stateEvent = (state: JobState): JobEvent => ({
  type: 'job',
  at: new Date(state.finishedAt ?? state.startedAt ?? state.createdAt).toISOString(),
  seq: state.lastSeq,
  job: jobView(state),
})
