import type { Effect, JobEventRecord, JobState } from './job-state.ts'
import type { TransitionContext } from './policy.ts'

/**
 * The heart of the coordinator, without time, chance or I/O.
 *
 * `transition(job, event, context)` changes `job` (undefined for `submitted`) by one recorded event, and gives what follows.
 * An event that cannot be any more (a token that is void, an execution that has ended) changes nothing but what is recorded as
 * late, and has no effect that counts; no event ever throws. The same events in the same order with the same contexts give the
 * same job, which is how a coordinator comes back after a crash: effects are then not let out again.
 */
export interface Step {
  readonly job: JobState
  readonly effects: readonly Effect[]
}
export type Transition = (job: JobState | undefined, event: JobEventRecord, context: TransitionContext) => Step
