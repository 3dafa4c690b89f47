import { inflateRawSync } from 'node:zlib'
import type { JobStatus, ReputationEntry } from '@bramble/protocol'
import { type Kysely, sql } from 'kysely'
import type { JobState } from '../core/job-state.ts'
import type { Document, LedgerEntry, Loaded, Store } from './store.ts'
import type { LedgerRow, Tables } from './tables.ts'
import { keyText, textOfKey } from './text.ts'

/** What every SQL store answers alike. What was written by a store is not checked again. */
export type Queries = Pick<
  Store,
  | 'load'
  | 'job'
  | 'jobs'
  | 'idempotent'
  | 'provisional'
  | 'reputation'
  | 'ledger'
  | 'balances'
  | 'documents'
  | 'document'
  | 'countJobs'
>

const PAGE_ROWS = 1000
/** A row of the log may hold many results. */
const PAGE_LOG_ROWS = 64

const stateOf = ({ state }: { readonly state: string | Uint8Array }): JobState =>
  JSON.parse(typeof state === 'string' ? state : inflateRawSync(state).toString()) as JobState

const documentOf = (kind: string, body: string): Document => {
  const [id, value] = JSON.parse(body) as [string, unknown]
  return { kind, id, value }
}

const entryOf = (row: LedgerRow): LedgerEntry => ({
  seq: row.seq,
  kind: row.kind as LedgerEntry['kind'],
  from: textOfKey(row.from_account),
  to: textOfKey(row.to_account),
  amount: row.amount,
  ...(row.job !== null && { job: row.job as JobState['id'] }),
  ...(row.execution !== null && { execution: row.execution }),
  at: row.at,
})

/** Of `name=value`, or of a name alone. */
export const labelOf = (label: string): { readonly name: string; readonly value?: string } => {
  const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(label) ?? []
  return { name, ...(value !== undefined && { value }) }
}

const openJobs = async (db: Kysely<Tables>): Promise<JobState[]> => {
  const jobs: JobState[] = []
  for (let after = ''; ; ) {
    const page = db.selectFrom('jobs').select(['id', 'state']).where(sql<boolean>`open = 1`)
    const rows = await page.where('id', '>', after).orderBy('id').limit(PAGE_ROWS).execute()
    jobs.push(...rows.map(stateOf))
    after = rows.at(-1)?.id ?? ''
    if (rows.length < PAGE_ROWS) return jobs
  }
}

async function* logAfter(db: Kysely<Tables>, checkpoint: number): Awaited<ReturnType<Store['load']>>['log'] {
  // The row that the checkpoint falls into begins at or before it; rows wholly behind it may be there still.
  const select = db.selectFrom('log').select(['seq', 'at', 'records']).orderBy('seq').limit(PAGE_LOG_ROWS)
  let page = select.where('last_seq', '>', checkpoint)
  for (;;) {
    const rows = await page.execute()
    for (const { seq, at, records } of rows)
      for (const [n, record] of (JSON.parse(records) as unknown[]).entries())
        if (seq + n > checkpoint) yield { seq: seq + n, at, record }
    if (rows.length < PAGE_LOG_ROWS) return
    page = select.where('seq', '>', rows.at(-1)?.seq ?? checkpoint)
  }
}

const load = async (db: Kysely<Tables>): Promise<Loaded> => {
  const meta = await db.selectFrom('meta').select('value').where('name', '=', 'checkpoint').executeTakeFirstOrThrow()
  const last = await db.selectFrom('log').select('last_seq').orderBy('seq', 'desc').limit(1).executeTakeFirst()
  const documents = await db.selectFrom('documents').selectAll().orderBy('kind').orderBy('key').execute()
  return {
    seq: Math.max(meta.value, last?.last_seq ?? 0),
    documents: documents.map(({ kind, body }) => documentOf(textOfKey(kind), body)),
    jobs: await openJobs(db),
    log: logAfter(db, meta.value),
  }
}

export const openQueries = (db: Kysely<Tables>): Queries => ({
  load: () => load(db),
  async job(id) {
    const row = await db.selectFrom('jobs').select('state').where('id', '=', id).executeTakeFirst()
    return row && stateOf(row)
  },
  async jobs({ tenant, limit, cursor, status, label }) {
    if (label === undefined) {
      let page = db.selectFrom('jobs').select('state').where('tenant', '=', keyText(tenant))
      if (status !== undefined) page = page.where('status', '=', status)
      if (cursor !== undefined) page = page.where('id', '<', cursor)
      return (await page.orderBy('id', 'desc').limit(limit).execute()).map(stateOf)
    }
    const { name, value } = labelOf(label)
    let page = db.selectFrom('job_labels as label').innerJoin('jobs', 'jobs.id', 'label.job').select('jobs.state')
    page = page.where('label.tenant', '=', keyText(tenant)).where('label.name', '=', keyText(name))
    if (value !== undefined) page = page.where('label.value', '=', keyText(value))
    if (status !== undefined) page = page.where('jobs.status', '=', status)
    if (cursor !== undefined) page = page.where('label.job', '<', cursor)
    return (await page.orderBy('label.job', 'desc').limit(limit).execute()).map(stateOf)
  },
  async idempotent(tenant, key) {
    const row = await db
      .selectFrom('jobs')
      .select(['id', 'idempotency_digest'])
      .where('tenant', '=', keyText(tenant))
      .where('idempotency_key', '=', keyText(key))
      .executeTakeFirst()
    return row && { job: row.id as JobState['id'], digest: textOfKey(row.idempotency_digest ?? '') }
  },
  async provisional(node, now, limit) {
    const rows = db.selectFrom('jobs').select('state').where('provisional_node', '=', node)
    // Not by the index of ids: of a node's jobs, those that are not settled are few.
    const order = sql`id || ''`
    return (await rows.where('provisional_until', '>', now).orderBy(order, 'desc').limit(limit).execute()).map(stateOf)
  },
  async reputation(node, { before, limit }) {
    let page = db.selectFrom('reputation').select('entry').where('node', '=', node)
    if (before !== undefined) page = page.where('seq', '<', before)
    const rows = await page.orderBy('seq', 'desc').limit(limit).execute()
    return rows.map(({ entry }) => JSON.parse(entry) as ReputationEntry)
  },
  async ledger(account, { before, limit }) {
    const side = async (column: 'from_account' | 'to_account'): Promise<LedgerRow[]> => {
      let page = db.selectFrom('ledger').selectAll().where(column, '=', keyText(account))
      if (before !== undefined) page = page.where('seq', '<', before)
      return page.orderBy('seq', 'desc').limit(limit).execute()
    }
    const both = new Map([...(await side('from_account')), ...(await side('to_account'))].map((row) => [row.seq, row]))
    return [...both.values()]
      .sort((left, right) => right.seq - left.seq)
      .slice(0, limit)
      .map(entryOf)
  },
  async balances() {
    const rows = await db.selectFrom('account_totals').selectAll().execute()
    return {
      total: rows.reduce((sum, { amount }) => sum + amount, 0),
      byKind: Object.fromEntries(rows.map(({ kind, amount }) => [textOfKey(kind), amount])),
    }
  },
  async documents(kind) {
    const rows = db.selectFrom('documents').select('body').where('kind', '=', keyText(kind)).orderBy('key')
    return (await rows.execute()).map(({ body }) => documentOf(kind, body))
  },
  async document(kind, id) {
    const row = db.selectFrom('documents').select('body').where('kind', '=', keyText(kind))
    const found = await row.where('key', '=', keyText(id)).executeTakeFirst()
    return found && documentOf(kind, found.body).value
  },
  async countJobs() {
    const rows = await db.selectFrom('job_counts').selectAll().where('jobs', '>', 0).execute()
    return Object.fromEntries(rows.map(({ status, jobs }) => [status, jobs])) as Partial<Record<JobStatus, number>>
  },
})
