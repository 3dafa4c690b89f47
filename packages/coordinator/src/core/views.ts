import type { Job, JobEvidence, JobExecution, NodeId } from '@bramble/protocol'
import { nodeCredibility } from './credibility.ts'
import type { ExecutionState, JobState } from './job-state.ts'
import { DEFAULT_VERIFICATION, type VerificationConfig } from './policy.ts'

/**
 * A job as others see it. Who knew what another node said could say the same without any work, so nothing of a result is in
 * here before the verdict: no hash, no receipt, no usage.
 */

const iso = (ms: number): string => new Date(ms).toISOString()

/** The execution whose result is the job's. One that is asked again keeps its result until the new verdict. */
const agreedOn = (state: JobState): ExecutionState | undefined =>
  state.status === 'completed' || state.status === 'verifying'
    ? state.executions.find(({ id }) => id === state.canonical)
    : undefined

const isDecided = (state: JobState, execution: ExecutionState): boolean =>
  state.status === 'completed' || state.status === 'no_consensus' || execution === agreedOn(state)

export const jobView = (state: JobState): Job => {
  const { request } = state
  const { spec } = request
  const agreed = agreedOn(state)
  return {
    id: state.id,
    status: state.status,
    ...(request.name !== undefined && { name: request.name }),
    ...(request.description !== undefined && { description: request.description }),
    command: spec.command,
    image: spec.image,
    ...(state.imageDigest !== undefined && { imageDigest: state.imageDigest }),
    redundancy: request.redundancy,
    consensus: request.consensus,
    strategy: request.strategy,
    policy: request.policy,
    ...(request.comparator.type !== 'exact' && { comparator: request.comparator.type }),
    priority: request.priority,
    ...(request.deadline !== undefined && { deadline: request.deadline }),
    creditsRequired: request.creditsRequired,
    creditsSpent: state.creditsSpent,
    labels: spec.labels ?? {},
    diversity: state.relaxed.length > 0 ? 'relaxed' : 'strict',
    relaxed: [...state.relaxed],
    ...(state.determinismClass !== undefined && { determinismClass: state.determinismClass }),
    createdAt: iso(state.createdAt),
    ...(state.startedAt !== undefined && { startedAt: iso(state.startedAt) }),
    ...(state.finishedAt !== undefined && { finishedAt: iso(state.finishedAt) }),
    ...(state.waiting !== undefined && { waiting: state.waiting }),
    ...(state.verification !== undefined && { verification: state.verification }),
    ...(agreed?.result !== undefined && { result: agreed.result }),
    ...(agreed?.resultHash !== undefined && { resultHash: agreed.resultHash }),
    ...(agreed?.inputHash !== undefined && { inputHash: agreed.inputHash }),
    ...(state.message !== undefined && { message: state.message }),
  }
}

const weightOf = ({ standing }: ExecutionState, { assumedLiars }: VerificationConfig): number =>
  nodeCredibility(standing.agreements, assumedLiars)

export const executionView = (
  state: JobState,
  execution: ExecutionState,
  config: VerificationConfig = DEFAULT_VERIFICATION,
): JobExecution => {
  const { standing, receipt } = execution
  return {
    id: execution.id,
    job: state.id,
    node: standing.node,
    owner: standing.owner,
    ...(standing.region !== undefined && { region: standing.region }),
    status: execution.status,
    validity: execution.validity,
    reason: execution.reason,
    token: execution.token,
    createdAt: iso(execution.placedAt),
    leasedAt: iso(execution.placedAt),
    ...(execution.startedAt !== undefined && { startedAt: iso(execution.startedAt) }),
    ...(execution.finishedAt !== undefined && { finishedAt: iso(execution.finishedAt) }),
    ...(execution.message !== undefined && { message: execution.message }),
    ...(isDecided(state, execution) && {
      ...(execution.resultHash !== undefined && { resultHash: execution.resultHash }),
      ...(execution.inputHash !== undefined && { inputHash: execution.inputHash }),
      ...(receipt !== undefined && {
        receipt,
        usage: { cpuMs: receipt.receipt.cpuMs, peakMemoryBytes: receipt.receipt.peakMemoryBytes },
        established: standing.established,
        weight: weightOf(execution, config),
      }),
    }),
  }
}

export interface EvidenceContext {
  /** Hash that names the network, as receipts have it. */
  readonly network: string
  readonly publicKey: (node: NodeId) => string | undefined
  readonly config?: VerificationConfig
}

/** All receipts of what was decided, with what each counted: whoever agreed, whoever did not, whoever came late. */
export const evidenceView = (state: JobState, context: EvidenceContext): JobEvidence => {
  const { network, publicKey, config = DEFAULT_VERIFICATION } = context
  const resultHash = agreedOn(state)?.resultHash
  return {
    job: state.id,
    status: state.status,
    network,
    ...(resultHash !== undefined && { resultHash }),
    ...(state.verification !== undefined && { verification: state.verification }),
    receipts: state.executions.flatMap((execution) => {
      const key = publicKey(execution.standing.node)
      if (execution.receipt === undefined || key === undefined || !isDecided(state, execution)) return []
      return {
        validity: execution.validity,
        established: execution.standing.established,
        weight: weightOf(execution, config),
        publicKey: key,
        owner: execution.standing.owner,
        signed: execution.receipt,
      }
    }),
  }
}
