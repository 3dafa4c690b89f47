import type { JobStatus, Validity } from '@bramble/protocol'
import type { Effect, ExecutionState, JobState } from './job-state.ts'
import type { TransitionContext } from './policy.ts'

/** One transition under way: the job that it changes, and what follows so far. */
export interface Change {
  readonly job: JobState
  readonly context: TransitionContext
  readonly effects: Effect[]
}

export const isOpen = ({ status }: ExecutionState): boolean => status === 'leased' || status === 'running'

/** Whether it was placed since the job was asked (again): earlier ones have been decided. */
export const isOfRound = (job: JobState, execution: ExecutionState): boolean => execution.token > job.roundToken

export const nextSeq = (job: JobState): number => {
  job.lastSeq += 1
  return job.lastSeq
}

export const setStatus = ({ job, effects }: Change, status: JobStatus): void => {
  if (job.status === status) return
  job.status = status
  effects.push({ type: 'status', seq: nextSeq(job) })
}

export const tell = ({ job, effects }: Change, execution: ExecutionState): void => {
  effects.push({ type: 'execution', seq: nextSeq(job), execution: execution.id })
}

/** How an open execution ended. Its room is free from here on. */
export interface Ending {
  readonly status: ExecutionState['status']
  readonly validity: Validity
  readonly message?: string
}

export const endExecution = (
  change: Change,
  execution: ExecutionState,
  { status, validity, message }: Ending,
): void => {
  execution.status = status
  execution.validity = validity
  execution.finishedAt = change.context.now
  if (message !== undefined) execution.message = message
  change.effects.push({ type: 'free', execution: execution.id, node: execution.standing.node })
  tell(change, execution)
}

/** The same of one whose node may still be at it. */
export const stopExecution = (
  change: Change,
  execution: ExecutionState,
  ending: Ending & { message: string },
): void => {
  const { id, token, standing } = execution
  change.effects.push({ type: 'stop', execution: id, token, node: standing.node, reason: ending.message })
  endExecution(change, execution, ending)
}

/** Milliseconds that its node took, by this clock. */
export const durationMs = ({ placedAt, startedAt = placedAt, finishedAt = startedAt }: ExecutionState): number =>
  Math.max(0, finishedAt - startedAt)
