import type { KeyObject } from 'node:crypto'
import type { JobId, NodeId, Sealed } from '@bramble/protocol'
import type { Transition } from '../core/core.ts'
import type { JobState } from '../core/job-state.ts'
import type { NodeTable, WaitingQueue } from '../placement/placement.ts'
import type { Stragglers } from '../placement/stragglers.ts'
import type { Journal } from '../store/journal.ts'
import type { Store } from '../store/store.ts'
import type { Accounts } from './accounts.ts'
import type { NetworkConfig } from './config.ts'
import type { HeldChars, RecentJobs } from './held-chars.ts'
import type { Leases } from './leases.ts'
import type { NodeRecord } from './node-records.ts'
import type { Outbox } from './outbox.ts'
import type { Sessions } from './sessions.ts'
import type { SpecClass } from './spec-class.ts'
import type { Subscriptions } from './subscriptions.ts'

/** Milliseconds since 1970, random bytes and timers, so that a network can be simulated. */
export interface Surroundings {
  now(): number
  /** Fills `bytes`; absent: the system's. */
  readonly random?: (bytes: Uint8Array) => void
  /** Runs `work` after `ms`; the answer takes it back. */
  schedule(ms: number, work: () => void): () => void
}

export interface OpenJob {
  state: JobState
  /** Changed since it was written whole. */
  dirty: boolean
  readonly requestChars: number
  /** What it takes in memory, as it is counted. */
  chars: number
  readonly idempotency?: { readonly key: string; readonly digest: string }
}

/** What the parts of a writer work on: all that one network is, in memory. */
export interface WriterContext extends Surroundings {
  /** For what has to last or to come within so long; see `steadyClock`. Not a time of day. */
  steady(): number
  readonly config: NetworkConfig
  readonly store: Store
  readonly journal: Journal
  readonly outbox: Outbox
  readonly transition: Transition
  readonly table: NodeTable
  readonly queue: WaitingQueue
  readonly stragglers: Stragglers
  readonly jobs: Map<JobId, OpenJob>
  /** Of open jobs that have one. */
  readonly deadlines: Map<JobId, number>
  /** Jobs that failed more than once, and when they are placed again. */
  readonly retries: Map<JobId, number>
  /** Jobs that wait for an established node, and since when. */
  readonly anchorWaits: Map<JobId, number>
  /** Of tenants: jobs verified, and nodes convicted by them, since this writer began. */
  readonly verdicts: Map<string, { verified: number; convictions: number }>
  /** Jobs that ended, the latest last; bounded. */
  readonly recent: RecentJobs
  /** Executions of jobs that ended whose late result is in their node's record: once is enough. */
  readonly lateTold: WeakSet<object>
  readonly byTenant: Map<string, number>
  readonly held: HeldChars
  readonly nodes: Map<NodeId, NodeRecord>
  readonly leases: Leases
  readonly accounts: Accounts
  readonly sessions: Sessions
  readonly subscriptions: Subscriptions
  readonly classes: Map<string, SpecClass>
  /** The secret that audits are drawn with. */
  readonly auditKey: KeyObject
  readonly counts: Counts
  /** Opens what was sealed to the network, and seals it to a node's key. */
  reseal(sealed: Sealed, publicKey: string): Promise<Sealed>
  /** It lied: its owner waits before it may add another. */
  onConvicted(node: NodeRecord): void
  /** Something that cannot go on: the writer ends, and another begins from the store. */
  fail(error: unknown): void
}

/** What is counted while the writer is up. */
export interface Counts {
  endedJobs: number
  placedExecutions: number
  verified: number
  startedAt: number
}
