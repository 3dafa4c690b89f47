import type {
  ExecutionId,
  JobId,
  JobRequest,
  JobResult,
  JobStatus,
  NodeId,
  SignedReceipt,
  Validity,
  Verification,
  Waiting,
} from '@bramble/protocol'

/**
 * One job as the coordinator keeps it: plain JSON, so that it is written as it is. Only `transition` changes it. Times are
 * milliseconds of the coordinator's clock.
 */
export interface JobState {
  readonly id: JobId
  readonly tenant: string
  readonly request: JobRequest
  /** Resolved at submission where some node knows the image's name. */
  imageDigest?: string
  status: JobStatus
  createdAt: number
  startedAt?: number
  finishedAt?: number
  deadlineAt?: number
  /** In [0, 1), a keyed function of the job's id, fixed before anything is placed: below the audit share, a lone result is audited. */
  readonly auditDraw: number
  /** What executions may share although the network's default forbids it. */
  readonly relaxed: readonly string[]
  /** Grows with each placement: the fencing token. */
  lastToken: number
  executions: ExecutionState[]
  /** Executions asked of placement and not placed yet, by why. */
  wanted: Wanted[]
  /** Times it was opened again because a node that stood alone lied. */
  reopened: number
  /** Executions with a larger token belong to the present round of asking: what came before it has been decided. */
  roundToken: number
  waiting?: Waiting
  /** It was to need one agreement more than it says, and there is no node that could give it. */
  auditWaived?: boolean
  /** No established node was to be had in time: new ones may decide it, and gain no trust by that. */
  anchorWaived?: boolean
  verification?: Verification
  /** The execution whose result is the job's. */
  canonical?: ExecutionId
  determinismClass?: 'exact' | 'fuzzy' | 'none'
  creditsSpent: number
  message?: string
  /** Of the job's own history, counted from 1: what an event stream resumes by. */
  lastSeq: number
  /** The last record of the log whose effect is in here; set by whoever writes the job, and skipped up to when the log is replayed. */
  logSeq?: number
}

export type PlacementReason = 'first' | 'disagreement' | 'retry' | 'straggler' | 'audit' | 'anchor' | 'again'

export interface Wanted {
  readonly reason: PlacementReason
  /** Only a node that is established will do. */
  readonly established: boolean
}

/** Of a node at the moment of placement: what the verdict weighs it by. It does not change afterwards. */
export interface Standing {
  readonly node: NodeId
  readonly owner: string
  readonly machine: string
  /** /24 of IPv4, /48 of IPv6, of its connection. */
  readonly subnet: string
  readonly region?: string
  readonly established: boolean
  /** Replicated results that agreed, until then. */
  readonly agreements: number
}

export interface ExecutionState {
  readonly id: ExecutionId
  readonly token: number
  readonly reason: PlacementReason
  readonly standing: Standing
  /** May decide alone, if its node and the draw allow it. */
  readonly alone: boolean
  status: 'leased' | 'running' | 'completed' | 'failed' | 'timeout' | 'lost' | 'cancelled' | 'disagreed'
  validity: Validity
  placedAt: number
  startedAt?: number
  finishedAt?: number
  /** Ends the lease unless renewed. Renewals are not events: they are kept by the leases in memory. */
  message?: string
  inputHash?: string
  resultHash?: string
  receipt?: SignedReceipt
  /** Kept until the verdict, and of the canonical one after it. */
  result?: JobResult
}

/** What happens to a job. Recorded before it has any effect; replaying a job's events gives the same state. */
export type JobEventRecord =
  | {
      readonly type: 'submitted'
      readonly id: JobId
      readonly tenant: string
      readonly request: JobRequest
      readonly auditDraw: number
      readonly relaxed: readonly string[]
      readonly imageDigest?: string
      readonly determinismClass?: 'exact' | 'fuzzy' | 'none'
    }
  /** Placement found a node for the first of `wanted`; the lease goes out once this is durable. */
  | { readonly type: 'placed'; readonly execution: ExecutionId; readonly standing: Standing }
  /** It found no node. `withoutAnchor`: it waited long enough for an established one. */
  | { readonly type: 'waiting'; readonly waiting: Waiting; readonly withoutAnchor?: true }
  | { readonly type: 'started'; readonly execution: ExecutionId; readonly token: number }
  | {
      readonly type: 'committed'
      readonly execution: ExecutionId
      readonly token: number
      readonly inputHash: string
      readonly resultHash: string
      readonly receipt: SignedReceipt
      readonly result: JobResult
    }
  /** The node could not run it, or sent what cannot be taken (`invalid`). */
  | {
      readonly type: 'execution_failed'
      readonly execution: ExecutionId
      readonly token: number
      readonly code: string
      readonly message: string
      readonly invalid: boolean
    }
  /** Its lease ended (`timeout`), or its node went silent or away (`lost`). */
  | {
      readonly type: 'expired'
      readonly execution: ExecutionId
      readonly token: number
      readonly as: 'timeout' | 'lost'
    }
  /** It is slow while others of its kind are fast, and the verdict waits for it. */
  | { readonly type: 'straggling'; readonly execution: ExecutionId }
  | { readonly type: 'cancelled'; readonly by: string }
  | { readonly type: 'deadline_passed' }
  /**
   * `node` was convicted. What it decided alone is asked again, by a whole quorum; in a job that is not decided yet, its
   * executions end and count no more.
   */
  | { readonly type: 'reopened'; readonly node: NodeId }

/** What follows from an event, let out once it is durable. In the order in which it is to happen. */
export type Effect =
  /** `job.wanted` grew, or shrank to nothing: tell placement. */
  | { readonly type: 'place' }
  /** Stop that execution: its token is void from here on. */
  | {
      readonly type: 'stop'
      readonly execution: ExecutionId
      readonly token: number
      readonly node: NodeId
      readonly reason: string
    }
  /** An execution ended, whatever way: its node's room is free. Once for each that was placed. */
  | { readonly type: 'free'; readonly execution: ExecutionId; readonly node: NodeId }
  /** An entry of a node's record. */
  | {
      readonly type: 'reputation'
      readonly node: NodeId
      readonly kind: 'agreed' | 'alone' | 'disagreed' | 'invalid' | 'failed' | 'timeout' | 'late' | 'convicted'
      readonly execution: ExecutionId
      readonly ms?: number
      /** Mean of those that agreed, where they were several. */
      readonly averageMs?: number
      readonly message?: string
    }
  /** To the owner of an execution that agreed, out of what the job holds. */
  | { readonly type: 'pay'; readonly execution: ExecutionId; readonly owner: string; readonly credits: number }
  /** The job ended: what it still holds goes back to its tenant. Once for each time that it was asked. */
  | { readonly type: 'release' }
  /** Its result is what one node alone says; ask again if that node is convicted before `until`. */
  | { readonly type: 'provisional'; readonly node: NodeId; readonly until: number }
  /** What subscribers of the job see, numbered by `lastSeq`; `status` says that the job's status changed. */
  | { readonly type: 'status'; readonly seq: number }
  | { readonly type: 'execution'; readonly seq: number; readonly execution: ExecutionId }
  | { readonly type: 'waiting'; readonly seq: number }
  | { readonly type: 'corrected'; readonly seq: number; readonly resultHash: string }
