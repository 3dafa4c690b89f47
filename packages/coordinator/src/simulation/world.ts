import type { NodeId } from '@bramble/protocol'
import { DEFAULT_NETWORK, type NetworkConfig } from '../network/config.ts'
import type { Checker } from './checker.ts'
import type { Coordinator } from './coordinators.ts'
import type { EventLoop } from './event-loop.ts'
import type { Gossip } from './gossip.ts'
import type { Scenario } from './scenario.ts'
import type { SimulatedKey } from './signatures.ts'

/** What the inhabitants of a simulation share. */
export interface World {
  readonly loop: EventLoop
  readonly scenario: Scenario
  readonly config: NetworkConfig
  readonly checker: Checker
  readonly gossip: Gossip
  /** All keys that were ever made, by node. */
  readonly keys: Map<NodeId, SimulatedKey>
  /** The coordinator that can be reached and writes. */
  front(): Coordinator | undefined
  log(line: () => string): void
}

export const NETWORK = `0x${'42'.repeat(32)}`
export const AUDIT_KEY = new Uint8Array(32).fill(7)

/** Everything ten times as fast as in life, and a node established after three agreements, so that short seeds see it all. */
export const CONFIG: NetworkConfig = {
  ...DEFAULT_NETWORK,
  network: NETWORK,
  version: 'simulation',
  verification: {
    ...DEFAULT_NETWORK.verification,
    establishedAgreements: 3,
    maxExecutions: 6,
    settlementMs: 3_600_000,
  },
  leaseMs: 6000,
  reconnectMs: 1500,
  heartbeatMs: 2000,
  restartGraceMs: 4000,
  silentMs: 20_000,
  timeoutMarginMs: 3000,
  newcomerRunning: 2,
  newcomerAgreements: 2,
  grantCredits: 300,
  checkpointRecords: 40,
  checkpointMs: 3000,
  recentJobs: 4,
}
