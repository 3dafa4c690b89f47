import { jobHasEnded } from '@bramble/protocol'
import type { ExecutionState, JobState } from '../core/job-state.ts'
import { DurationSketch } from './duration-sketch.ts'

/**
 * Executions that hang behind others of their kind, and so hold up a verdict: each gets a second copy on another node (Dean and
 * Barroso, "The tail at scale", 2013). One is late after max(2·p50, p95) of its kind; copies are at most one in twenty executions.
 */
export interface Stragglers {
  /** One was placed: a twentieth of a copy more may be asked for. */
  placed(): void
  /** One gave its result after so long. */
  ended(kind: string, ms: number): void
  /** When one of this kind is late; undefined while too little is known of it. */
  lateAfterMs(kind: string): number | undefined
  /** Takes a copy from what may be asked for; false: there is none left. */
  takeCopy(): boolean
}

const LEAST_SAMPLES = 20
const COPIES_PER_EXECUTION = 0.05
/** Copies that may be saved up. */
const MAX_SAVED_COPIES = 20
/** Kinds that are remembered; of more, the one that was heard of longest ago is forgotten. */
const MAX_KINDS = 1024
/** Shorter ones are not worth a copy. */
const LEAST_LATE_MS = 1000

export const stragglers = (): Stragglers => {
  const kinds = new Map<string, DurationSketch>()
  let copies = 0
  return {
    placed() {
      copies = Math.min(MAX_SAVED_COPIES, copies + COPIES_PER_EXECUTION)
    },
    ended(kind, ms) {
      const sketch = kinds.get(kind) ?? new DurationSketch()
      sketch.add(ms)
      kinds.delete(kind)
      kinds.set(kind, sketch)
      if (kinds.size > MAX_KINDS) for (const oldest of kinds.keys()) return void kinds.delete(oldest)
    },
    lateAfterMs(kind) {
      const sketch = kinds.get(kind)
      if (sketch === undefined || sketch.total < LEAST_SAMPLES) return undefined
      return Math.max(LEAST_LATE_MS, 2 * sketch.quantile(0.5), sketch.quantile(0.95))
    },
    takeCopy() {
      // Sums of twentieths are a little off.
      if (copies < 1 - 1e-9) return false
      copies -= 1
      return true
    },
  }
}

/** Jobs that may be expected to take equally long: of one image, program and size. */
export const kindOf = ({ request: { spec }, imageDigest }: JobState): string => {
  const [program = ''] = typeof spec.command === 'string' ? spec.command.trim().split(/\s+/, 1) : spec.command
  const { cpus, memoryMb, gpus } = spec.resources
  return `${imageDigest ?? spec.image} ${cpus}/${memoryMb}/${gpus} ${program}`
}

/** Whether the verdict waits for this execution and nothing else: it runs, and no other does or is asked for. */
export const holdsUpVerdict = (job: JobState, execution: ExecutionState): boolean =>
  execution.status === 'running' &&
  job.wanted.length === 0 &&
  !jobHasEnded(job.status) &&
  job.executions.every(({ id, status }) => id === execution.id || (status !== 'running' && status !== 'leased'))
