import { hash } from 'node:crypto'
import { type BrambleError, type Job, type JobRequestInput, jobHasEnded, toBrambleError } from '@bramble/protocol'
import type { Bramble } from '@bramble/sdk'
import { pick, type Random } from './random.ts'

/** What clients did and were told: kept here, apart from all that may be lost. */
export interface Submission {
  readonly key: string
  readonly command: string
  /** Every id that this key was answered with. */
  readonly ids: Set<string>
  /** As the client that waited saw it end. */
  seen: Pick<Job, 'status' | 'resultHash'> | undefined
  cancelled: boolean
}

export interface Load {
  readonly submissions: readonly Submission[]
  readonly ended: number
  /** Between two ends that followed each other. */
  readonly longestGapMs: number
  /** What clients were told beside answers, by code. */
  readonly errors: ReadonlyMap<string, number>
  /** Nothing new is submitted. */
  stop(): void
  /** Resolves when all clients have seen the end of what they submitted. */
  readonly done: Promise<void>
}

export interface LoadOptions {
  readonly client: () => Bramble
  readonly clients: number
  readonly random: Random
  readonly seed: number
  /** Aborts what is still waited for. */
  readonly signal: AbortSignal
}

const FORMS: readonly Partial<JobRequestInput>[] = [
  { redundancy: 3, consensus: 2 },
  { redundancy: 3, consensus: 2, strategy: 'eager' },
  { redundancy: 3, consensus: 3 },
  { redundancy: 1 },
  { redundancy: 3, consensus: 2, policy: 'fast' },
]
const CANCELLED_SHARE = 0.03
const TWICE_SHARE = 0.2
const PAUSE_MS = 250

export const answerOf = (command: string): string => hash('sha256', command)

/** Clients that each submit a job, wait for its end, and submit the next one, through all that happens. */
export const openLoad = (options: LoadOptions): Load => {
  const { client, clients, random, seed, signal } = options
  const submissions: Submission[] = []
  const errors = new Map<string, number>()
  let stopped = false
  let ended = 0
  let lastEnd = performance.now()
  let longestGapMs = 0

  /** Whatever a client is told, short of what it did wrong: it asks again. */
  const insist = async <T>(work: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await work()
      } catch (thrown) {
        signal.throwIfAborted()
        const error: BrambleError = toBrambleError(thrown)
        errors.set(error.code, (errors.get(error.code) ?? 0) + 1)
        if (!error.retryable && error.code !== 'connection_failed' && error.code !== 'request_timeout') throw thrown
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
      }
    }
  }
  const submit = async (bramble: Bramble, submission: Submission, request: JobRequestInput): Promise<Job> => {
    const job = await insist(() => bramble.jobs.submit(request, { idempotencyKey: submission.key, signal }))
    submission.ids.add(job.id)
    return job
  }
  const one = async (bramble: Bramble): Promise<void> => {
    const number = submissions.length
    const submission: Submission = {
      ...{ key: `chaos-${seed}-${number}`, command: `work ${seed} ${number}`, ids: new Set() },
      ...{ seen: undefined, cancelled: false },
    }
    submissions.push(submission)
    const request = {
      ...pick(random, FORMS),
      ...{ command: submission.command, placement: { distinct: ['owner' as const] } },
    }
    const twice = random() < TWICE_SHARE
    const [job] = await Promise.all([
      submit(bramble, submission, request),
      ...(twice ? [submit(client(), submission, request)] : []),
    ])
    if (random() < CANCELLED_SHARE) {
      submission.cancelled = true
      await insist(() => bramble.jobs.cancel(job.id, { signal }))
    }
    const byEvents = random() < 0.5
    const last = await insist(async () => {
      if (byEvents) return bramble.jobs.wait(job.id, { signal })
      for (;;) {
        const now = await bramble.jobs.get(job.id, { signal })
        if (jobHasEnded(now.status)) return now
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
      }
    })
    const { status, resultHash } = last
    submission.seen = { status, ...(resultHash !== undefined && { resultHash }) }
    ended++
    const now = performance.now()
    longestGapMs = Math.max(longestGapMs, now - lastEnd)
    lastEnd = now
  }
  const work = async (): Promise<void> => {
    const bramble = client()
    while (!stopped) await one(bramble)
  }
  return {
    ...{ submissions, errors },
    get ended() {
      return ended
    },
    get longestGapMs() {
      return longestGapMs
    },
    stop: () => {
      stopped = true
    },
    done: Promise.all(Array.from({ length: clients }, work)).then(() => {}),
  }
}
