import { BrambleError, jobHasEnded } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import { labelOf } from './queries.ts'
import { accountKind, latestJobs } from './rows.ts'
import type { Batch, Document, LedgerEntry, Store, StoredJob } from './store.ts'

export interface MemoryStoreOptions {
  /** In milliseconds: what leases end by. */
  readonly now: () => number
  /**
   * Called around each append: what it throws is what the append rejects with. Thrown `before`, nothing was written; thrown
   * `after`, all of it was, and whoever appended does not know: a crash on either side of the commit.
   */
  readonly onAppend?: (when: 'before' | 'after', batch: Batch) => void | Promise<void>
}

interface Kept {
  readonly job: StoredJob
  /** As JSON: what a store gives back is never what somebody still changes. */
  readonly text: string
}

/** A store that lives as long as the process: for simulations, and tests of what stands above it. */
export const memoryStore = (options: MemoryStoreOptions): Store => {
  const { now, onAppend } = options
  const jobs = new Map<string, Kept>()
  const documents = new Map<string, { readonly kind: string; readonly id: string; readonly text: string }>()
  const log: { readonly seq: number; readonly at: number; readonly text: string }[] = []
  const reputation = new Map<string, string[]>()
  const ledger: LedgerEntry[] = []
  const ledgerSeqs = new Set<number>()
  const writer = { epoch: 0, name: '', url: '', until: 0 }
  const watchers = new Set<() => void>()
  const tell = (): void => {
    for (const watcher of watchers) queueMicrotask(watcher)
  }
  let seq = 0
  let checkpoint = 0

  const newest = (accepts: (kept: Kept) => boolean, limit: number): JobState[] =>
    [...jobs.values()]
      .filter(accepts)
      .sort((left, right) => (left.job.state.id < right.job.state.id ? 1 : -1))
      .slice(0, limit)
      .map(({ text }) => JSON.parse(text) as JobState)

  const idempotencyName = (tenant: string, key: string): string => JSON.stringify([tenant, key])
  const byIdempotency = new Map<string, Kept>()

  const check = (batch: Batch): void => {
    const refuse = (detail: string): never => {
      throw new BrambleError('conflict', { detail })
    }
    if (batch.log.length > 0 && batch.seq <= seq) refuse(`record ${batch.seq} is in the log already`)
    const seen = new Set<number>()
    for (const entry of batch.ledger) {
      if (ledgerSeqs.has(entry.seq) || seen.has(entry.seq)) refuse(`entry ${entry.seq} is in the ledger already`)
      seen.add(entry.seq)
    }
    const keys = new Map<string, string>()
    for (const { state, idempotency } of latestJobs(batch.jobs).values()) {
      if (idempotency === undefined) continue
      const name = idempotencyName(state.tenant, idempotency.key)
      const holder = keys.get(name) ?? byIdempotency.get(name)?.job.state.id
      if (holder !== undefined && holder !== state.id) refuse(`the idempotency key is that of ${holder}`)
      keys.set(name, state.id)
    }
  }

  const write = (batch: Batch): void => {
    check(batch)
    for (const [n, record] of batch.log.entries())
      log.push({ seq: batch.seq + n, at: batch.at, text: JSON.stringify(record) })
    seq = Math.max(seq, batch.seq + batch.log.length - 1)
    for (const [id, job] of latestJobs(batch.jobs)) {
      const idempotency = job.idempotency ?? jobs.get(id)?.job.idempotency
      const { state } = job
      const kept = { job: { ...job, ...(idempotency && { idempotency }) }, text: JSON.stringify(state) }
      jobs.set(id, kept)
      if (idempotency) byIdempotency.set(idempotencyName(state.tenant, idempotency.key), kept)
    }
    for (const { kind, id, value } of batch.documents) {
      const name = JSON.stringify([kind, id])
      if (value === undefined) documents.delete(name)
      else documents.set(name, { kind, id, text: JSON.stringify(value) })
    }
    for (const entry of batch.reputation) {
      const entries = reputation.get(entry.node) ?? []
      entries.push(JSON.stringify(entry))
      reputation.set(entry.node, entries)
    }
    for (const entry of batch.ledger) {
      ledger.push({ ...entry })
      ledgerSeqs.add(entry.seq)
    }
    if (batch.checkpoint === undefined) return
    checkpoint = batch.checkpoint
    const kept = log.findIndex((record) => record.seq > checkpoint)
    log.splice(0, kept === -1 ? log.length : kept)
  }

  const page = <T extends { readonly seq: number }>(
    entries: readonly T[],
    query: { readonly before?: number; readonly limit: number },
  ): T[] =>
    entries
      .filter((entry) => query.before === undefined || entry.seq < query.before)
      .sort((left, right) => right.seq - left.seq)
      .slice(0, query.limit)

  const documentOf = ({ kind, id, text }: { kind: string; id: string; text: string }): Document => ({
    ...{ kind, id, value: JSON.parse(text) as unknown },
  })

  return {
    name: 'memory',
    async acquire({ name, url, ttlMs }) {
      const leftMs = writer.until - now()
      if (leftMs > 0) return { held: false, name: writer.name, url: writer.url, leftMs }
      Object.assign(writer, { epoch: writer.epoch + 1, name, url, until: now() + ttlMs })
      tell()
      return { held: true, epoch: writer.epoch }
    },
    async renew(epoch, ttlMs) {
      if (epoch !== writer.epoch) return false
      writer.until = now() + ttlMs
      return true
    },
    async release(epoch) {
      if (epoch !== writer.epoch) return
      Object.assign(writer, { epoch: epoch + 1, until: 0 })
      tell()
    },
    watchWriter(changed) {
      const watcher = () => changed()
      watchers.add(watcher)
      return async () => {
        watchers.delete(watcher)
      }
    },
    writer: async () => (writer.until > now() ? { name: writer.name, url: writer.url } : undefined),
    async append(epoch, batch) {
      // Whoever appends goes on meanwhile, and changes what it gave.
      const frozen = JSON.parse(JSON.stringify(batch)) as Batch
      await onAppend?.('before', frozen)
      if (epoch !== writer.epoch)
        throw new BrambleError('not_leader', { detail: `the epoch is ${writer.epoch} by now` })
      write(frozen)
      await onAppend?.('after', frozen)
    },
    async load() {
      const records = log.map(({ seq: number, at, text }) => ({ seq: number, at, text }))
      return {
        seq: Math.max(seq, checkpoint),
        documents: [...documents.values()].map(documentOf),
        jobs: newest(({ job }) => !jobHasEnded(job.state.status), jobs.size).reverse(),
        log: (async function* () {
          for (const { seq: number, at, text } of records)
            yield { seq: number, at, record: JSON.parse(text) as unknown }
        })(),
      }
    },
    async job(id) {
      const kept = jobs.get(id)
      return kept && (JSON.parse(kept.text) as JobState)
    },
    async jobs({ tenant, limit, cursor, status, label }) {
      const wanted = label === undefined ? undefined : labelOf(label)
      return newest(({ job: { state } }) => {
        const value = wanted && Object.entries(state.request.spec.labels ?? {}).find(([name]) => name === wanted.name)
        return (
          state.tenant === tenant &&
          (cursor === undefined || state.id < cursor) &&
          (status === undefined || state.status === status) &&
          (wanted === undefined || (value !== undefined && (wanted.value ?? value[1]) === value[1]))
        )
      }, limit)
    },
    async idempotent(tenant, key) {
      const kept = byIdempotency.get(idempotencyName(tenant, key))
      return kept?.job.idempotency && { job: kept.job.state.id, digest: kept.job.idempotency.digest }
    },
    provisional: async (node, at, limit) =>
      newest(({ job: { provisional } }) => provisional?.node === node && provisional.until > at, limit),
    reputation: async (node, query) =>
      page(
        (reputation.get(node) ?? []).map((text) => JSON.parse(text)),
        query,
      ),
    ledger: async (account, query) =>
      page(
        ledger.filter(({ from, to }) => from === account || to === account),
        query,
      ),
    async balances() {
      const byKind: Record<string, number> = {}
      for (const { from, to, amount } of ledger) {
        byKind[accountKind(from)] = (byKind[accountKind(from)] ?? 0) - amount
        byKind[accountKind(to)] = (byKind[accountKind(to)] ?? 0) + amount
      }
      return { total: Object.values(byKind).reduce((sum, amount) => sum + amount, 0), byKind }
    },
    documents: async (kind) => [...documents.values()].filter((document) => document.kind === kind).map(documentOf),
    async document(kind, id) {
      const document = documents.get(JSON.stringify([kind, id]))
      return document && documentOf(document).value
    },
    async countJobs() {
      const counts: Partial<Record<JobState['status'], number>> = {}
      for (const { job } of jobs.values()) counts[job.state.status] = (counts[job.state.status] ?? 0) + 1
      return counts
    },
    close: async () => {},
    [Symbol.asyncDispose]: async () => {},
  }
}
