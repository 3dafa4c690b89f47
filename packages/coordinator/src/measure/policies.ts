import { type JobRequestInput, jobRequestSchema } from '@bramble/protocol'
import { DEFAULT_VERIFICATION, type VerificationConfig } from '../core/policy.ts'
import { seededRandom } from '../testing/random.ts'
import type { Attack } from './attacks.ts'
import { openMarket } from './market.ts'

/**
 * What each policy costs and lets through, by the coordinator's own transition and its own folding of trust: jobs run one
 * after another on nodes of a random mixture, of which some lie. Nothing here decides anything about a result.
 */
export interface Policy {
  readonly name: string
  readonly request: Omit<JobRequestInput, 'command'>
  readonly config?: Partial<VerificationConfig>
}

export const POLICIES: readonly Policy[] = [
  { name: '`quorum` 2 of 3, `eager`', request: { redundancy: 3, consensus: 2, strategy: 'eager' } },
  { name: '`quorum` 2 of 3, `lazy` (default)', request: { redundancy: 3, consensus: 2 } },
  {
    name: 'the same without the anchor rule',
    request: { redundancy: 3, consensus: 2 },
    config: { anchorRule: false },
  },
  {
    name: 'with `quorumAuditShare` 0.05',
    request: { redundancy: 3, consensus: 2 },
    config: { quorumAuditShare: 0.05 },
  },
  { name: '`quorum` 3 of 5, `lazy`', request: { redundancy: 5, consensus: 3 } },
  { name: '`fast`, else 2 of 3', request: { redundancy: 3, consensus: 2, policy: 'fast' } },
  {
    name: 'the same without the least share of audits',
    request: { redundancy: 3, consensus: 2, policy: 'fast' },
    config: { auditShare: 0 },
  },
  { name: '`paranoid`, 0.99', request: { redundancy: 3, policy: 'paranoid', confidence: 0.99 } },
  { name: '`paranoid`, 0.999', request: { redundancy: 5, policy: 'paranoid', confidence: 0.999 } },
]

export interface Measured {
  readonly policy: string
  readonly attack: string
  readonly jobs: number
  /** Executions of all jobs together, those of jobs asked again with them. */
  readonly executions: number
  /** Jobs whose first verdict was the lie, and whose last one still is. */
  readonly wrongAtFirst: number
  readonly wrongAtLast: number
  readonly noConsensus: number
  readonly reopened: number
  readonly liarsConvicted: number
  readonly honestConvicted: number
}

export interface MeasureOptions {
  readonly nodes: number
  /** Run by whoever runs the network: established from the start, and honest. */
  readonly anchors: number
  readonly jobs: number
  readonly seed: number
}

/** Every node is new at the beginning but the anchors: what it costs to get to know them is in the numbers. */
export const measurePolicy = (policy: Policy, attack: Attack, options: MeasureOptions): Measured => {
  const random = seededRandom(options.seed)
  const config = { ...DEFAULT_VERIFICATION, ...policy.config }
  const request = jobRequestSchema.parse({ command: 'true', ...policy.request })
  const market = openMarket({ request, config, attack, random, nodes: options.nodes, anchors: options.anchors })
  for (let job = 0; job < options.jobs; job++) market.runJob()
  return { policy: policy.name, attack: attack.name, jobs: options.jobs, ...market.counts() }
}
