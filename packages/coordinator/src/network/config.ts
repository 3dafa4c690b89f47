import { type Distinct, LIMITS } from '@bramble/protocol'
import { DEFAULT_VERIFICATION, type VerificationConfig } from '../core/policy.ts'
import type { RoutingLimits } from '../routing/limits.ts'

/** Every bound and habit of a network, with its unit in its name. */
export interface NetworkConfig {
  /** 32 bytes in `0x` hex: what receipts are for. */
  readonly network: string
  readonly version: string
  readonly verification: VerificationConfig
  /** How long an execution is a worker's without a renewal. */
  readonly leaseMs: number
  /** How long its executions are a worker's whose connection broke off: it comes back within it, or its process is gone. */
  readonly reconnectMs: number
  /** How often a worker says that it is alive, and what it is at. */
  readonly heartbeatMs: number
  /** Added to every lease after a restart, on top of `leaseMs`: workers need time to come back. */
  readonly restartGraceMs: number
  /** After so long without a word a node is offline, and its executions are placed elsewhere. */
  readonly silentMs: number
  /** An execution may take its `timeoutMs` and this, for the way there and back. */
  readonly timeoutMarginMs: number
  /** What executions of a job may not share unless it says otherwise. */
  readonly distinct: readonly Distinct[]
  /** `open`: a node without an invite joins as its own owner. */
  readonly join: 'invite' | 'open'
  /** The pause before a third execution, after two failed; twice as long with each that fails. */
  readonly firstRetryMs: number
  readonly maxRetryMs: number
  /** How long a job waits for an established node before new ones may decide it. */
  readonly anchorWaitMs: number
  /** Nodes that a tenant's jobs may convict: so many, and a share of the jobs of it that were verified. */
  readonly tenantConvictions: number
  readonly tenantConvictionShare: number
  /** Credits of a tenant that comes for the first time. */
  readonly grantCredits: number
  readonly maxOpenJobs: number
  readonly maxTenantOpenJobs: number
  /** Characters of jobs that have not ended, with the results that wait in them: in all, and of one tenant. */
  readonly maxOpenJobChars: number
  readonly maxTenantOpenJobChars: number
  /** Executions at once of a node that has not agreed `newcomerAgreements` times yet. */
  readonly newcomerRunning: number
  readonly newcomerAgreements: number
  readonly maxNodesPerOwner: number
  /** In all, those that are gone included. */
  readonly maxNodes: number
  /** Documents are written anew after so many records, or after so long. */
  readonly checkpointRecords: number
  readonly checkpointMs: number
  /** Jobs that ended and are still held, for those who ask at once. */
  readonly recentJobs: number
  readonly maxRecentChars: number
  readonly nonceMs: number
  readonly maxNonces: number
  /** Of users and instances; what is absent is as `DEFAULT_ROUTING` says. */
  readonly routing?: Partial<RoutingLimits>
}

export const DEFAULT_NETWORK: Omit<NetworkConfig, 'network' | 'version'> = {
  verification: DEFAULT_VERIFICATION,
  leaseMs: 20_000,
  reconnectMs: 5_000,
  heartbeatMs: 6_000,
  restartGraceMs: 30_000,
  silentMs: 120_000,
  timeoutMarginMs: 30_000,
  distinct: ['owner', 'machine', 'subnet'],
  join: 'invite',
  firstRetryMs: 500,
  maxRetryMs: 30_000,
  anchorWaitMs: 10_000,
  tenantConvictions: 10,
  tenantConvictionShare: 0.02,
  grantCredits: 1_000_000,
  maxOpenJobs: LIMITS.maxOpenJobs.value,
  maxTenantOpenJobs: LIMITS.maxTenantOpenJobs.value,
  maxOpenJobChars: LIMITS.maxOpenJobChars.value,
  maxTenantOpenJobChars: LIMITS.maxTenantOpenJobChars.value,
  newcomerRunning: 4,
  newcomerAgreements: 3,
  maxNodesPerOwner: 100_000,
  maxNodes: LIMITS.maxNodes.value,
  checkpointRecords: 50_000,
  checkpointMs: 10_000,
  recentJobs: 4096,
  maxRecentChars: 64 * 1024 * 1024,
  nonceMs: 2 * LIMITS.maxClockSkewMs.value,
  maxNonces: 500_000,
}
