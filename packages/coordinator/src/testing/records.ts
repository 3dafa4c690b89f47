import {
  type JobId,
  type JobStatus,
  jobRequestSchema,
  type NodeId,
  newId,
  type ReputationEntry,
} from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import type { Batch, LedgerEntry } from '../store/store.ts'

/** Made-up records of a network, for tests of what keeps them. */

/** The nth node. */
export const aNodeId = (n: number): NodeId => `0x${n.toString(16).padStart(40, '0')}` as NodeId

export const aJob = (
  more: Partial<JobState> & { readonly labels?: Readonly<Record<string, string>>; readonly command?: string } = {},
): JobState => {
  const { labels = {}, command = 'true', ...state } = more
  const request = jobRequestSchema.parse({ command: 'true', image: 'base' })
  return {
    id: newId('job'),
    tenant: 'acme',
    // Whatever a schema would refuse.
    request: { ...request, spec: { ...request.spec, command, labels } },
    status: 'pending',
    createdAt: 1,
    auditDraw: 0.5,
    relaxed: [],
    lastToken: 0,
    executions: [],
    wanted: [],
    reopened: 0,
    roundToken: 0,
    creditsSpent: 0,
    lastSeq: 1,
    ...state,
  }
}

export const ended = (job: JobState, status: JobStatus = 'completed'): JobState => ({ ...job, status, finishedAt: 2 })

export const anEntry = (seq: number, from: string, to: string, amount: number, job?: JobId): LedgerEntry => ({
  ...{ seq, kind: 'hold', from, to, amount, at: 1, ...(job !== undefined && { job }) },
})

export const aRemark = (seq: number, node: NodeId, more: Partial<ReputationEntry> = {}): ReputationEntry => ({
  ...{ seq, node, kind: 'agreed', at: new Date(seq).toISOString(), ...more },
})

export const aBatch = (seq: number, more: Partial<Batch> = {}): Batch => ({
  ...{ seq, at: 1_000 + seq, log: [], jobs: [], documents: [], reputation: [], ledger: [], ...more },
})
