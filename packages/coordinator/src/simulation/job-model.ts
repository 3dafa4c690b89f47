import type { ExecutionId, JobId, NodeId, SignedReceipt } from '@bramble/protocol'
import type { JobEventRecord, JobState, Standing } from '../core/job-state.ts'

/** An execution as the log tells of it. */
export interface ExecutionModel {
  readonly id: ExecutionId
  readonly job: JobId
  readonly node: NodeId
  readonly standing: Standing
  /** In true time, as all times here. */
  readonly placedAt: number
  token: number | undefined
  /** How it ended; `stopped` by what happened to its job. */
  ended: 'committed' | 'failed' | 'expired' | 'stopped' | undefined
  resultHash: string | undefined
  /** When its own node last said that it is at it. */
  beatAt: number | undefined
  beatBefore: number | undefined
  /** Its node came back without it: it may be taken from it. */
  isForgotten: boolean
  /** It was found not to count. */
  isVoid: boolean
}

export interface JobModel {
  readonly id: JobId
  readonly tenant: string
  readonly request: JobState['request']
  readonly auditDraw: number
  readonly relaxed: readonly string[]
  readonly executions: Map<ExecutionId, ExecutionModel>
  state: JobState
  lastSeq: number
  /** Tokens up to it are of an earlier round. */
  roundToken: number
}

export type LogEvent = Exclude<JobEventRecord, { type: 'submitted' }>

const SHARED = ['owner', 'machine', 'subnet'] as const

/** What two executions share that they may not. */
export const sharing = (a: Standing, b: Standing, relaxed: readonly string[]): string | undefined =>
  a.node === b.node ? 'node' : SHARED.find((what) => a[what] === b[what] && !relaxed.includes(what))

export const isOpenModel = ({ ended }: ExecutionModel): boolean => ended === undefined

/** Whether it counts, may count, or has counted: nobody near it may be asked for the same job. */
export const isInUse = (execution: ExecutionModel): boolean =>
  isOpenModel(execution) || (execution.ended === 'committed' && !execution.isVoid)

/** A receipt says what the lease said. */
export const receiptFault = (
  execution: Pick<ExecutionModel, 'id' | 'job' | 'node'> & { token: number | undefined },
  { receipt }: SignedReceipt,
  network: string,
): string | undefined => {
  if (receipt.network !== network) return 'is of another network'
  if (receipt.job !== execution.job) return 'is of another job'
  if (receipt.execution !== execution.id) return 'is of another execution'
  if (receipt.node !== execution.node) return 'is of another node'
  if (execution.token !== undefined && receipt.token !== execution.token) return 'has another token'
  return undefined
}
