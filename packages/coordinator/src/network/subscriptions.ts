import { type JobEvent, type JobId, jobHasEnded } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import { jobView } from '../core/views.ts'

/** Who follows a job. Events are let out when what they tell is durable. */
export interface Subscriptions {
  readonly any: (job: JobId) => boolean
  publish(job: JobId, event: JobEvent): void
  /** Ends the streams of a job that has ended, or of all. */
  end(job: JobId): void
  endAll(): void
  /**
   * What happens from now on, after the state as it is where `since` is not the last thing that happened. One who takes too
   * little gets the state anew instead of each step.
   */
  follow(read: () => JobState | undefined, options: { since?: number; signal?: AbortSignal }): AsyncIterable<JobEvent>
}

interface Follower {
  queue: JobEvent[]
  behind: boolean
  ended: boolean
  wake: (() => void) | undefined
}

const MAX_QUEUED_EVENTS = 256

export const openSubscriptions = (): Subscriptions => {
  const followers = new Map<JobId, Set<Follower>>()
  const wake = (follower: Follower): void => {
    follower.wake?.()
    follower.wake = undefined
  }
  const end = (job: JobId): void => {
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
    const follower: Follower = { queue: [], behind: false, ended: jobHasEnded(first.status), wake: undefined }
    const stop = () => wake(follower)
    if (!follower.ended) {
      const ofJob = followers.get(id) ?? new Set()
      followers.set(id, ofJob.add(follower))
    }
    signal?.addEventListener('abort', stop, { once: true })
    try {
      if (follower.ended || since === undefined || since < first.lastSeq) yield stateEvent(first)
      while (!signal?.aborted) {
        if (follower.behind) {
          follower.behind = false
          const state = read()
          if (state) yield stateEvent(state)
        }
        const event = follower.queue.shift()
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

  return {
    any: (job) => followers.has(job),
    publish: (job, event) => {
      for (const follower of followers.get(job) ?? []) {
        if (follower.queue.length < MAX_QUEUED_EVENTS) follower.queue.push(event)
        else {
          follower.queue = []
          follower.behind = true
        }
        wake(follower)
      }
    },
    end,
    endAll: () => {
      for (const job of [...followers.keys()]) end(job)
    },
    follow,
  }
}

export const stateEvent = (state: JobState): JobEvent => ({
  type: 'job',
  at: new Date(state.finishedAt ?? state.startedAt ?? state.createdAt).toISOString(),
  seq: state.lastSeq,
  job: jobView(state),
})
