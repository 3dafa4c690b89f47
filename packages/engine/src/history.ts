import type { ExecutionRecord, ExecutionResult } from '@bramble/protocol'
import { BrambleError } from '@bramble/protocol'
import type { Kysely } from 'kysely'
import { type HitReference, hitIn } from './cache/hit.ts'
import type { EngineLimits, ExecutionQuery } from './engine.ts'
import type { LiveExecution } from './live.ts'
import type { Clock, EngineNotice, Log } from './options.ts'
import {
  endInterrupted,
  insertLabels,
  listExecutions,
  loadExecution,
  measureExecutions,
  pruneExecutions,
  upsertExecutions,
} from './store/executions.ts'
import type { EngineTables, ExecutionRow, LabelRow } from './store/tables.ts'
import { addUsage, forgetUsageBefore } from './store/usage.ts'
import { type Charge, createUsageMeter, hourOf } from './usage.ts'

/**
 * The records of executions, written behind in groups: what changed within `historyFlushMs` is one transaction, with the
 * usage of the same executions. An execution that began and ended within one group is written once.
 */
export interface History {
  /** The execution is new, or its state changed. */
  changed(live: Recorded): void
  find(id: string, tenant: string): Promise<ExecutionRecord>
  list(query: ExecutionQuery): Promise<{ items: ExecutionRecord[]; nextCursor: string | null }>
  /** Usage that is no execution's; written with the next group. */
  charge(used: Charge): void
  /** Writes what has not been written. */
  flush(): Promise<void>
  close(): Promise<void>
}

/** What is recorded of an execution. */
export interface Recorded
  extends Pick<
    LiveExecution,
    'id' | 'spec' | 'context' | 'status' | 'runtime' | 'createdAt' | 'finishedAt' | 'conclusion'
  > {
  /** How its result is written, where that is known already. */
  readonly resultText?: (() => string) | undefined
}

export interface HistoryDeps {
  readonly db: Kysely<EngineTables>
  readonly limits: Pick<EngineLimits, 'maxHistory' | 'maxHistoryBytes' | 'historyFlushMs'>
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  /** The result that a record refers to, while the cache has it. */
  readonly resolveHit: (hit: HitReference, tenant: string) => Promise<ExecutionResult | undefined>
}

/** Results waiting to be written, at most: past it they are written at once. */
const PENDING_MAX_BYTES = 16 * 1024 * 1024
const RETRY_MS = 5000
const INTERRUPTED = 'the node stopped'
const FORGOTTEN = 'the result came from the cache, which has it no longer'
const USAGE_KEPT_MS = 400 * 24 * 3_600_000

/** An execution whose present state is not written; an earlier one may be. */
interface Pending {
  readonly live: Recorded
  /** What its row costs; undefined: it has none. */
  storedBytes: number | undefined
}

export const openHistory = async (deps: HistoryDeps): Promise<History> => {
  const { db, limits, clock, log, notice } = deps
  const now = clock.now()
  const interrupted = await endInterrupted(db, INTERRUPTED, new Date(now).toISOString())
  if (interrupted > 0) log.warn({ executions: interrupted }, 'executions were interrupted when the node stopped')
  await forgetUsageBefore(db, hourOf(now - USAGE_KEPT_MS))
  const stored = await measureExecutions(db)
  const usage = createUsageMeter(clock)
  // Those that have not ended stay until they have; the others until they are written.
  const live = new Map<string, Pending>()
  let dirty = new Map<string, Pending>()
  let dirtyBytes = 0
  let timer: NodeJS.Timeout | undefined
  let writing: Promise<void> | undefined
  let closed = false
  let charged = false

  const write = async (): Promise<void> => {
    if (dirty.size === 0 && !charged) return
    charged = false
    const group = dirty
    const groupBytes = dirtyBytes
    dirty = new Map()
    dirtyBytes = 0
    const beganMs = clock.monotonicMs()
    const rows = [...group.values()].map(({ live }) => rowOf(live))
    const fresh = [...group.values()].filter((entry) => entry.storedBytes === undefined)
    const hours = usage.take()
    try {
      await db.transaction().execute(async (transaction) => {
        await upsertExecutions(transaction, rows)
        await insertLabels(
          transaction,
          fresh.flatMap(({ live }) => labelsOf(live)),
        )
        await addUsage(transaction, hours)
      })
    } catch (error) {
      // The newer state wins where there is one by now; the oldest go when even waiting is too much.
      for (const [id, entry] of group) if (!dirty.has(id)) dirty.set(id, entry)
      dirtyBytes += groupBytes
      usage.giveBack(hours)
      charged = true
      forgetPastBounds()
      log.error({ err: error, records: group.size }, 'history could not be written')
      notice({ type: 'historyNotFlushed' })
      arm(RETRY_MS)
      return
    }
    stored.records += fresh.length
    stored.cached += fresh.filter(({ live }) => live.spec.mode === 'cached').length
    for (const row of rows) {
      const entry = group.get(row.id)
      stored.sizeBytes += row.size_bytes - (entry?.storedBytes ?? 0)
      if (entry) entry.storedBytes = row.size_bytes
    }
    for (const [id, { live: execution }] of group) if (execution.conclusion && !dirty.has(id)) live.delete(id)
    await prune()
    notice({ type: 'historyFlushed', records: rows.length, durationMs: clock.monotonicMs() - beganMs })
  }

  const prune = async (): Promise<void> => {
    const records = stored.records - limits.maxHistory
    const sizeBytes = stored.sizeBytes - limits.maxHistoryBytes
    if (records <= 0 && sizeBytes <= 0) return
    // Hits come by the thousand: past half of the room they make way for each other first, not what ran.
    const hits = Math.min(records, stored.cached - Math.floor(limits.maxHistory / 2))
    try {
      const parts = await db.transaction().execute(async (transaction) => {
        const first = await pruneExecutions(transaction, { records: hits, sizeBytes: 0, mode: 'cached' })
        const rest = { records: records - first.records, sizeBytes: sizeBytes - first.sizeBytes }
        return [first, await pruneExecutions(transaction, rest)]
      })
      for (const gone of parts) {
        stored.records -= gone.records
        stored.cached -= gone.cached
        stored.sizeBytes -= gone.sizeBytes
      }
    } catch (error) {
      log.error({ err: error }, 'old history could not be removed')
    }
  }

  const forgetPastBounds = (): void => {
    for (const [id, { live: execution }] of dirty) {
      if (dirty.size <= limits.maxHistory && dirtyBytes <= PENDING_MAX_BYTES * 4) return
      if (!execution.conclusion) continue
      dirty.delete(id)
      live.delete(id)
      dirtyBytes -= sizeOf(execution)
    }
  }

  const flush = async (): Promise<void> => {
    clearTimeout(timer)
    timer = undefined
    while (writing) await writing
    writing = write().finally(() => {
      writing = undefined
    })
    await writing
  }
  const arm = (ms: number): void => {
    if (!closed) timer ??= setTimeout(() => void flush(), ms)
  }

  return {
    changed(execution) {
      let entry = live.get(execution.id)
      if (!entry) {
        entry = { live: execution, storedBytes: undefined }
        live.set(execution.id, entry)
      }
      dirty.set(execution.id, entry)
      if (execution.conclusion) {
        dirtyBytes += sizeOf(execution)
        usage.count(execution)
      }
      if (dirtyBytes > PENDING_MAX_BYTES && !writing) void flush()
      else arm(limits.historyFlushMs)
    },
    charge(used) {
      usage.charge(used)
      charged = true
      arm(limits.historyFlushMs)
    },
    async find(id, tenant) {
      const known = live.get(id)?.live
      const record =
        known === undefined
          ? await loadExecution(db, id, tenant)
          : known.context.tenant === tenant
            ? summaryOf(known, true)
            : undefined
      if (!record) throw new BrambleError('not_found', { detail: `there is no execution ${id}` })
      const { result, ...summary } = record
      const hit = result && hitIn(result)
      if (!hit) return record
      const found = await deps.resolveHit(hit, tenant)
      return { ...summary, ...(found ? { result: found } : { message: FORGOTTEN }) }
    },
    async list(query) {
      await flush()
      const items = await listExecutions(db, { ...query, limit: query.limit + 1 })
      const more = items.length > query.limit
      const page = items.slice(0, query.limit)
      return { items: page, nextCursor: more ? (page.at(-1)?.id ?? null) : null }
    },
    flush,
    async close() {
      closed = true
      await flush()
      await db.destroy()
    },
  }
}

/** Roughly what the result costs to keep: its texts are nearly all of it. */
const sizeOf = ({ conclusion, resultText }: Recorded): number => {
  // The texts of a hit are the cache's.
  if (!conclusion || !('result' in conclusion) || resultText) return 0
  const { stdout, stderr, outputs } = conclusion.result
  let size = stdout.length + stderr.length
  for (const output of Object.values(outputs)) if ('content' in output) size += output.content.length
  return size
}

/** The record of an execution that has not been written yet. */
export const summaryOf = (live: Recorded, whole: boolean): ExecutionRecord => {
  const { conclusion } = live
  const result = conclusion && 'result' in conclusion ? conclusion.result : undefined
  const message = conclusion && 'error' in conclusion ? conclusion.error.detail : result?.message
  return {
    id: live.id,
    status: live.status,
    command: live.spec.command,
    image: live.spec.image,
    mode: live.spec.mode,
    ...(live.runtime !== undefined && { runtime: live.runtime }),
    labels: live.spec.labels ?? {},
    exitCode: result?.exitCode ?? null,
    ...(message !== undefined && { message }),
    createdAt: live.createdAt,
    ...(live.finishedAt !== undefined && { finishedAt: live.finishedAt }),
    ...(whole && result && { result }),
  }
}

const rowOf = (live: Recorded): ExecutionRow => {
  const record = summaryOf(live, true)
  const command = JSON.stringify(record.command)
  const labels = JSON.stringify(record.labels)
  const result = record.result ? (live.resultText?.() ?? JSON.stringify(record.result)) : null
  return {
    id: record.id,
    tenant: live.context.tenant,
    key_id: live.context.keyId,
    status: record.status,
    command,
    image: record.image,
    mode: record.mode,
    runtime: record.runtime ?? null,
    labels,
    exit_code: record.exitCode,
    message: record.message ?? null,
    created_at: record.createdAt,
    finished_at: record.finishedAt ?? null,
    result,
    size_bytes: command.length + labels.length + (result?.length ?? 0),
  }
}

const labelsOf = (live: Recorded): LabelRow[] =>
  Object.entries(live.spec.labels ?? {}).map(([name, value]) => ({
    execution_id: live.id,
    tenant: live.context.tenant,
    name,
    value,
  }))
