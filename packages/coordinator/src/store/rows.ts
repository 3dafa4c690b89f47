import { jobHasEnded } from '@bramble/protocol'
import type { Batch, StoredJob } from './store.ts'
import type { DocumentRow, JobRow, LabelRow, LedgerRow, LogRow, ReputationRow } from './tables.ts'
import { keyText } from './text.ts'

/** A batch as rows of the tables: the same for every database, made once, and nothing of it appears twice. */
export interface BatchRows {
  /** Undefined where nothing was recorded. */
  readonly log?: Omit<LogRow, 'epoch'>
  readonly jobs: readonly (JobRow & { readonly state: string })[]
  readonly labels: readonly LabelRow[]
  readonly documents: readonly DocumentRow[]
  /** Keys of documents that are no more. */
  readonly removed: readonly Omit<DocumentRow, 'body'>[]
  readonly reputation: readonly ReputationRow[]
  readonly ledger: readonly LedgerRow[]
  /** What the batch moves, by kind of account. */
  readonly totals: readonly { readonly kind: string; readonly amount: number }[]
  readonly checkpoint?: number
}

/** Later ones of a job replace earlier ones; the key that it was submitted with stays. */
export const latestJobs = (jobs: Iterable<StoredJob>): Map<string, StoredJob> => {
  const latest = new Map<string, StoredJob>()
  for (const job of jobs) {
    const idempotency = job.idempotency ?? latest.get(job.state.id)?.idempotency
    latest.set(job.state.id, idempotency === job.idempotency ? job : { ...job, ...(idempotency && { idempotency }) })
  }
  return latest
}

/** What kind of account it is: `hold` of `hold:job_…`. */
export const accountKind = (account: string): string => account.split(':', 1)[0] ?? ''

const jobRow = ({ state, idempotency, provisional }: StoredJob): BatchRows['jobs'][number] => ({
  id: state.id,
  tenant: keyText(state.tenant),
  status: state.status,
  open: jobHasEnded(state.status) ? 0 : 1,
  idempotency_key: idempotency === undefined ? null : keyText(idempotency.key),
  idempotency_digest: idempotency === undefined ? null : keyText(idempotency.digest),
  provisional_node: provisional?.node ?? null,
  provisional_until: provisional?.until ?? null,
  state: JSON.stringify(state),
})

const labelRows = ({ state }: StoredJob): LabelRow[] =>
  Object.entries(state.request.spec.labels ?? {}).map(([name, value]) => ({
    ...{ job: state.id, tenant: keyText(state.tenant), name: keyText(name), value: keyText(value) },
  }))

export const rowsOf = (batch: Batch): BatchRows => {
  const { seq, at, log } = batch
  const jobs = [...latestJobs(batch.jobs).values()]
  const documents = new Map(
    batch.documents.map(({ kind, id, value }) => {
      const row = { kind: keyText(kind), key: keyText(id) }
      return [`${row.kind} ${row.key}`, value === undefined ? row : { ...row, body: JSON.stringify([id, value]) }]
    }),
  )
  const totals = new Map<string, number>()
  for (const { from, to, amount } of batch.ledger) {
    totals.set(accountKind(from), (totals.get(accountKind(from)) ?? 0) - amount)
    totals.set(accountKind(to), (totals.get(accountKind(to)) ?? 0) + amount)
  }
  return {
    ...(log.length > 0 && { log: { seq, last_seq: seq + log.length - 1, at, records: JSON.stringify(log) } }),
    jobs: jobs.map(jobRow),
    labels: jobs.flatMap(labelRows),
    documents: [...documents.values()].filter((row) => 'body' in row),
    removed: [...documents.values()].filter((row) => !('body' in row)),
    reputation: batch.reputation.map((entry) => ({ node: entry.node, seq: entry.seq, entry: JSON.stringify(entry) })),
    ledger: batch.ledger.map(({ seq, kind, from, to, amount, job, execution, at }) => ({
      ...{ seq, kind, from_account: keyText(from), to_account: keyText(to), amount, at },
      ...{ job: job ?? null, execution: execution ?? null },
    })),
    totals: [...totals].map(([kind, amount]) => ({ kind: keyText(kind), amount })),
    ...(batch.checkpoint !== undefined && { checkpoint: batch.checkpoint }),
  }
}
