import type { JobId, JobStatus, NodeId, ReputationEntry } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'

/**
 * Where a network is kept. One coordinator at a time writes: it holds the *writer's lease*, whose epoch fences every append.
 * The others read.
 *
 * State is in memory; the store has what makes it again: *documents* (nodes, accounts, keys, …: small JSON by kind and id), the
 * jobs, and a *log* of what happened since the documents were written (`checkpoint`). Opening reads the documents and the jobs
 * that have not ended, and replays the log after the checkpoint. What must be queried later has tables of its own: jobs that
 * ended, entries of reputation, entries of the ledger.
 *
 * `append` is one transaction: all of a batch or nothing, durable when it resolves (synchronous=FULL, synchronous_commit=on).
 * It rejects with `not_leader` where the epoch is not the present one; then nothing of it was written and nothing may be let
 * out. Whoever appends does so one batch after another; `journal` groups.
 *
 * Drivers: `sqliteStore` (node:sqlite, one process), `postgresStore` (PostgreSQL 15 and later, pg) and `memoryStore`. The first
 * two have the same tables and queries (`tables.ts`, `queries.ts`); one contract suite for all (`testing/store-contract.ts`).
 */
export interface Store extends AsyncDisposable {
  readonly name: 'memory' | 'sqlite' | 'postgres'
  /**
   * Takes the writer's lease for `ttlMs` if nobody holds it, or its holder has not renewed it in time; else says who holds it.
   * Time is the database's own, so that clocks of coordinators do not matter.
   */
  acquire(writer: WriterClaim): Promise<WriterLease>
  /** False: it was lost. */
  renew(epoch: number, ttlMs: number): Promise<boolean>
  /** Gives it up at once, so that the next one need not wait. */
  release(epoch: number): Promise<void>
  /** Who writes now, if anyone. */
  writer(): Promise<{ readonly name: string; readonly url: string } | undefined>
  /**
   * Calls `changed` after a lease was taken or given up by anybody, soon, until what is returned is called. It may be called for
   * nothing; and it is not called when a lease runs out.
   */
  watchWriter(changed: () => void): () => Promise<void>

  append(epoch: number, batch: Batch): Promise<void>
  /** For a writer that begins: what it needs in memory. Streams, since open jobs may be many. */
  load(): Promise<Loaded>

  /** One that ended, or as the checkpoint knew it. */
  job(id: JobId): Promise<JobState | undefined>
  /** Newest first. */
  jobs(query: StoredJobsQuery): Promise<JobState[]>
  idempotent(tenant: string, key: string): Promise<{ readonly job: JobId; readonly digest: string } | undefined>
  /** Jobs that `node` decided alone, newest first, that are not settled at `now`. */
  provisional(node: NodeId, now: number, limit: number): Promise<JobState[]>
  reputation(node: NodeId, query: { readonly before?: number; readonly limit: number }): Promise<ReputationEntry[]>
  ledger(account: string, query: { readonly before?: number; readonly limit: number }): Promise<LedgerEntry[]>
  /** The sum over all accounts (it is 0), and what each kind of account holds. */
  balances(): Promise<{ readonly total: number; readonly byKind: Readonly<Record<string, number>> }>
  documents(kind: string): Promise<Document[]>
  document(kind: string, id: string): Promise<unknown>
  /** Jobs by status, for metrics and `stats`. */
  countJobs(): Promise<Partial<Record<JobStatus, number>>>
  close(): Promise<void>
}

export interface WriterClaim {
  readonly name: string
  /** Where other coordinators reach it. */
  readonly url: string
  readonly ttlMs: number
}
export type WriterLease =
  | { readonly held: true; readonly epoch: number }
  | { readonly held: false; readonly name: string; readonly url: string; readonly leftMs: number }

export interface Document {
  readonly kind: string
  readonly id: string
  /** undefined removes it. */
  readonly value: unknown
}

/** Amounts are whole credits times a million. */
export interface LedgerEntry {
  readonly seq: number
  readonly kind: 'grant' | 'hold' | 'pay' | 'release'
  readonly from: string
  readonly to: string
  readonly amount: number
  readonly job?: JobId
  readonly execution?: string
  readonly at: number
}

/** What one flush writes. Sequence numbers of the log grow by one with each record. */
export interface Batch {
  /** Of the first record. */
  readonly seq: number
  readonly at: number
  /** JSON values, replayed in order. */
  readonly log: readonly unknown[]
  /** Jobs as they are now: those submitted in this batch, those that ended, and at a checkpoint all that changed. */
  readonly jobs: readonly StoredJob[]
  readonly documents: readonly Document[]
  readonly reputation: readonly ReputationEntry[]
  readonly ledger: readonly LedgerEntry[]
  /** All documents and open jobs are written as of this record, so the log up to it is not needed any more. */
  readonly checkpoint?: number
}

export interface StoredJob {
  readonly state: JobState
  readonly idempotency?: { readonly key: string; readonly digest: string }
  /** The node that decided it alone, until when. */
  readonly provisional?: { readonly node: NodeId; readonly until: number }
}

export interface StoredJobsQuery {
  readonly tenant: string
  readonly limit: number
  /** Ids below it. */
  readonly cursor?: string
  readonly status?: JobStatus
  /** `name=value`, or `name` for any value. */
  readonly label?: string
}

export interface Loaded {
  readonly seq: number
  readonly documents: readonly Document[]
  /** All that had not ended when they were written last. */
  readonly jobs: readonly JobState[]
  /** Records after the checkpoint, in order. */
  readonly log: AsyncIterable<{ readonly seq: number; readonly at: number; readonly record: unknown }>
}
