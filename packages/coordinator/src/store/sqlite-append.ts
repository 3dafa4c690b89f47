import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { deflateRawSync } from 'node:zlib'
import type { BatchRows } from './rows.ts'

/** Rows of the log that one append removes behind the checkpoint: it is trimmed in steps, none of which is felt. */
const TRIM_ROWS = 64

/** A job that has ended is kept for long, and read seldom. */
const kept = ({ open, state }: BatchRows['jobs'][number]): string | Uint8Array =>
  open === 0 ? deflateRawSync(state, { level: 1 }) : state

/** The connection that writes. Each call is one transaction, and blocks until it is on disk. */
export interface SqliteAppender {
  /** False: `epoch` is not the present one, and nothing was written. */
  append(epoch: number, rows: BatchRows): boolean
  close(): void
}

export const openSqlite = (path: string): DatabaseSync => {
  const database = new DatabaseSync(path, { timeout: 5000 })
  database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
  return database
}

export const openSqliteAppender = (path: string): SqliteAppender => {
  const database = openSqlite(path)
  // Some tens of megabytes of changes before the file itself is written: fewer, longer writes.
  database.exec('PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -65536')
  const prepared = new Map<string, StatementSync>()
  const sql = (text: string): StatementSync => {
    const statement = prepared.get(text) ?? database.prepare(text)
    prepared.set(text, statement)
    return statement
  }
  let untrimmed = true

  const writeJobs = ({ jobs, labels }: BatchRows): void => {
    const counts = new Map<string, number>()
    const count = (status: string, by: number) => counts.set(status, (counts.get(status) ?? 0) + by)
    for (const job of jobs) {
      const before = sql('select status from jobs where id = ?').get(job.id)
      if (before) count(String(before.status), -1)
      count(job.status, 1)
      sql(
        `insert into jobs values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (id) do update set
          status = excluded.status, open = excluded.open, state = excluded.state,
          idempotency_key = coalesce(jobs.idempotency_key, excluded.idempotency_key),
          idempotency_digest = coalesce(jobs.idempotency_digest, excluded.idempotency_digest),
          provisional_node = excluded.provisional_node, provisional_until = excluded.provisional_until`,
      ).run(
        ...[job.id, job.tenant, job.status, job.open, job.idempotency_key, job.idempotency_digest],
        ...[job.provisional_node, job.provisional_until, kept(job)],
      )
    }
    for (const { job, tenant, name, value } of labels)
      sql('insert into job_labels values (?, ?, ?, ?) on conflict do nothing').run(job, tenant, name, value)
    for (const [status, by] of counts)
      sql('insert into job_counts values (?, ?) on conflict (status) do update set jobs = jobs + excluded.jobs').run(
        ...[status, by],
      )
  }

  const writeRows = (epoch: number, rows: BatchRows): void => {
    const { log, documents, removed, reputation, ledger, totals, checkpoint } = rows
    if (log) sql('insert into log values (?, ?, ?, ?, ?)').run(log.seq, log.last_seq, epoch, log.at, log.records)
    writeJobs(rows)
    for (const { kind, key, body } of documents)
      sql('insert into documents values (?, ?, ?) on conflict (kind, key) do update set body = excluded.body').run(
        ...[kind, key, body],
      )
    for (const { kind, key } of removed) sql('delete from documents where kind = ? and key = ?').run(kind, key)
    for (const { node, seq, entry } of reputation) sql('insert into reputation values (?, ?, ?)').run(node, seq, entry)
    for (const entry of ledger)
      sql('insert into ledger values (?, ?, ?, ?, ?, ?, ?, ?)').run(
        ...[entry.seq, entry.kind, entry.from_account, entry.to_account],
        ...[entry.amount, entry.job, entry.execution, entry.at],
      )
    for (const { kind, amount } of totals)
      sql(
        'insert into account_totals values (?, ?) on conflict (kind) do update set amount = amount + excluded.amount',
      ).run(...[kind, amount])
    if (checkpoint !== undefined) {
      sql("update meta set value = ? where name = 'checkpoint'").run(checkpoint)
      untrimmed = true
    }
    if (untrimmed) {
      const { changes } = sql(
        `delete from log where seq in (select seq from log
          where last_seq <= (select value from meta where name = 'checkpoint') order by seq limit ${TRIM_ROWS})`,
      ).run()
      untrimmed = changes === TRIM_ROWS
    }
  }

  return {
    append(epoch, rows) {
      database.exec('begin immediate')
      try {
        const fenced = sql('select 1 from writer where id = 1 and epoch = ?').get(epoch) !== undefined
        if (fenced) writeRows(epoch, rows)
        database.exec(fenced ? 'commit' : 'rollback')
        return fenced
      } catch (error) {
        if (database.isTransaction) database.exec('rollback')
        throw error
      }
    },
    close() {
      if (database.isOpen) database.close()
    },
  }
}
