import {
  type ExecutionId,
  type ExecutionMode,
  type ExecutionPhase,
  type ExecutionRecord,
  type ExecutionResult,
  executionIdSchema,
  parse,
} from '@bramble/protocol'
import type { Kysely, Transaction } from 'kysely'
import type { EngineTables, ExecutionRow, LabelRow } from './tables.ts'

type Db = Kysely<EngineTables> | Transaction<EngineTables>

/** Rows of one statement: far below the parameters a statement may have (SQLite 32,766; PostgreSQL 65,535). */
const ROWS_A_STATEMENT = 256
const IDS_A_STATEMENT = 1000

const SUMMARY = [
  'id',
  'status',
  'command',
  'image',
  'mode',
  'runtime',
  'labels',
  'exit_code',
  'message',
  'created_at',
  'finished_at',
] as const

function* slices<T>(items: readonly T[], size: number): Generator<T[]> {
  for (let at = 0; at < items.length; at += size) yield items.slice(at, at + size)
}

export const upsertExecutions = async (db: Db, rows: readonly ExecutionRow[]): Promise<void> => {
  for (const slice of slices(rows, ROWS_A_STATEMENT))
    await db
      .insertInto('executions')
      .values(slice)
      .onConflict((conflict) =>
        conflict.column('id').doUpdateSet((row) => ({
          status: row.ref('excluded.status'),
          runtime: row.ref('excluded.runtime'),
          exit_code: row.ref('excluded.exit_code'),
          message: row.ref('excluded.message'),
          finished_at: row.ref('excluded.finished_at'),
          result: row.ref('excluded.result'),
          size_bytes: row.ref('excluded.size_bytes'),
        })),
      )
      .execute()
}

export const insertLabels = async (db: Db, rows: readonly LabelRow[]): Promise<void> => {
  for (const slice of slices(rows, ROWS_A_STATEMENT))
    await db
      .insertInto('execution_labels')
      .values(slice)
      .onConflict((conflict) => conflict.doNothing())
      .execute()
}

type SummaryRow = Pick<ExecutionRow, (typeof SUMMARY)[number]>

/** The texts were written by this engine: they are not checked again. */
export const recordOf = (row: SummaryRow, result?: string | null): ExecutionRecord => ({
  id: row.id as ExecutionId,
  status: row.status,
  command: JSON.parse(row.command) as ExecutionRecord['command'],
  image: row.image,
  mode: row.mode,
  ...(row.runtime !== null && { runtime: row.runtime }),
  labels: JSON.parse(row.labels) as ExecutionRecord['labels'],
  exitCode: row.exit_code,
  ...(row.message !== null && { message: row.message }),
  createdAt: row.created_at,
  ...(row.finished_at !== null && { finishedAt: row.finished_at }),
  ...(result && { result: JSON.parse(result) as ExecutionResult }),
})

export const loadExecution = async (db: Db, id: string, tenant: string): Promise<ExecutionRecord | undefined> => {
  const row = await db
    .selectFrom('executions')
    .select([...SUMMARY, 'result'])
    .where('id', '=', id)
    .where('tenant', '=', tenant)
    .executeTakeFirst()
  return row && recordOf(row, row.result)
}

export interface ListQuery {
  readonly tenant: string
  readonly limit: number
  /** The id after which the page begins. */
  readonly cursor?: string | undefined
  readonly status?: ExecutionPhase | undefined
  readonly label?: string | undefined
}

/** Newest first: ids sort by time. */
export const listExecutions = async (db: Db, query: ListQuery): Promise<ExecutionRecord[]> => {
  let select = db.selectFrom('executions').select(SUMMARY).where('tenant', '=', query.tenant)
  if (query.cursor !== undefined) select = select.where('id', '<', parse(executionIdSchema, query.cursor))
  if (query.status !== undefined) select = select.where('status', '=', query.status)
  if (query.label !== undefined) {
    const [, name = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(query.label) ?? []
    select = select.where((where) => {
      let labelled = where
        .selectFrom('execution_labels')
        .select('execution_id')
        .where('execution_labels.tenant', '=', query.tenant)
        .where('name', '=', name)
      if (value !== undefined) labelled = labelled.where('value', '=', value)
      return where('id', 'in', labelled)
    })
  }
  const rows = await select.orderBy('id', 'desc').limit(query.limit).execute()
  return rows.map((row) => recordOf(row))
}

/** What a crash left unfinished has ended: nothing of it runs any more. */
export const endInterrupted = async (db: Db, message: string, finishedAt: string): Promise<number> => {
  const { numUpdatedRows } = await db
    .updateTable('executions')
    .set({ status: 'error', message, finished_at: finishedAt })
    .where('status', 'in', ['queued', 'running'])
    .executeTakeFirst()
  return Number(numUpdatedRows)
}

/** `cached`: of mode `cached`. */
export const measureExecutions = async (db: Db): Promise<{ records: number; cached: number; sizeBytes: number }> => {
  const rows = await db
    .selectFrom('executions')
    .select((select) => ['mode', select.fn.countAll().as('records'), select.fn.sum('size_bytes').as('size_bytes')])
    .groupBy('mode')
    .execute()
  const stored = { records: 0, cached: 0, sizeBytes: 0 }
  for (const { mode, records, size_bytes } of rows) {
    stored.records += Number(records)
    stored.sizeBytes += Number(size_bytes ?? 0)
    if (mode === 'cached') stored.cached += Number(records)
  }
  return stored
}

/** Removes the oldest ended ones, or of `mode` alone, until at least `records` and `sizeBytes` are gone. Returns what went. */
export const pruneExecutions = async (
  db: Db,
  excess: { records: number; sizeBytes: number; mode?: ExecutionMode },
): Promise<{ records: number; cached: number; sizeBytes: number }> => {
  const gone = { records: 0, cached: 0, sizeBytes: 0 }
  while (gone.records < excess.records || gone.sizeBytes < excess.sizeBytes) {
    const wanted = excess.sizeBytes > gone.sizeBytes ? IDS_A_STATEMENT : excess.records - gone.records
    let ended = db
      .selectFrom('executions')
      .select(['id', 'mode', 'size_bytes'])
      .where('status', 'not in', ['queued', 'running'])
    if (excess.mode !== undefined) ended = ended.where('mode', '=', excess.mode)
    const oldest = await ended.orderBy('id').limit(Math.min(wanted, IDS_A_STATEMENT)).execute()
    const ids: string[] = []
    for (const { id, mode, size_bytes } of oldest) {
      if (gone.records >= excess.records && gone.sizeBytes >= excess.sizeBytes) break
      ids.push(id)
      gone.records++
      if (mode === 'cached') gone.cached++
      gone.sizeBytes += size_bytes
    }
    if (ids.length === 0) break
    await db.deleteFrom('execution_labels').where('execution_id', 'in', ids).execute()
    await db.deleteFrom('executions').where('id', 'in', ids).execute()
  }
  return gone
}
