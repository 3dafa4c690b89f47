import { BrambleError } from '@bramble/protocol'
import type { Journal } from './journal.ts'
import type { Batch, Document, LedgerEntry, Store, StoredJob } from './store.ts'

export interface JournalOptions {
  readonly store: Pick<Store, 'append'>
  readonly epoch: number
  /** Of the last record that the store has: `Loaded.seq`. */
  readonly seq: number
  readonly now: () => number
  /** Runs it when the present turn is over, so that all that one turn brings is one batch. Default `setImmediate`. */
  readonly defer?: (work: () => void) => void
  /** From so many records that are not on disk, the journal is `full`. Default 50,000. */
  readonly maxUnflushedRecords?: number
  /** A write failed: the journal is dead, and so is whoever writes by it. Called once. */
  readonly onDead?: (error: unknown) => void
}

const MAX_UNFLUSHED_RECORDS = 50_000

interface Gathered {
  readonly log: unknown[]
  readonly jobs: Map<string, StoredJob>
  readonly documents: Map<string, Map<string, Document>>
  readonly reputation: Batch['reputation'][number][]
  readonly ledger: LedgerEntry[]
  checkpoint?: number
  readonly written: PromiseWithResolvers<void>
}

const gathered = (): Gathered => {
  const written = Promise.withResolvers<void>()
  // Nobody may be waiting for it.
  written.promise.catch(() => {})
  return { log: [], jobs: new Map(), documents: new Map(), reputation: [], ledger: [], written }
}

/**
 * A journal over the log of `store`, which goes on behind the record `seq`. A batch is never cut: a job in it holds all of its
 * records. What was noted is made JSON when its batch is written, so records are not changed after they were given; jobs may be,
 * by what is recorded.
 */
export const openJournal = (options: JournalOptions): Journal => {
  const { store, epoch, now, defer = setImmediate, maxUnflushedRecords = MAX_UNFLUSHED_RECORDS, onDead } = options
  let { seq } = options
  let writtenSeq = seq
  let next: Gathered | undefined
  let writing: Promise<void> | undefined
  let dead: { readonly error: unknown } | undefined
  let closed = false
  let lost = false

  const die = (error: unknown): void => {
    if (dead) return
    dead = { error }
    next?.written.reject(error)
    next = undefined
    onDead?.(error)
  }

  const write = async (batch: Gathered): Promise<void> => {
    const last = seq
    try {
      await store.append(epoch, {
        seq: last - batch.log.length + 1,
        at: now(),
        log: batch.log,
        jobs: [...batch.jobs.values()],
        documents: [...batch.documents.values()].flatMap((ofKind) => [...ofKind.values()]),
        reputation: batch.reputation,
        ledger: batch.ledger,
        ...(batch.checkpoint !== undefined && { checkpoint: batch.checkpoint }),
      })
      writtenSeq = last
      batch.written.resolve()
    } catch (error) {
      batch.written.reject(error)
      die(error)
    }
  }

  const flush = (): void => {
    if (writing || !next || dead) return
    const batch = next
    next = undefined
    writing = write(batch).then(() => {
      writing = undefined
      // By now others wait, and nothing is gained by letting them.
      flush()
    })
  }

  const gather = (): Gathered => {
    if (dead || closed) {
      lost = true
      return gathered()
    }
    if (!next) {
      next = gathered()
      if (!writing) defer(flush)
    }
    return next
  }

  const alive = (): void => {
    if (dead) throw dead.error
    if (lost) throw new BrambleError('shutting_down', { detail: 'the journal is closed' })
  }

  const close = async (): Promise<void> => {
    closed = true
    while (next || writing) {
      flush()
      await writing
    }
  }

  return {
    log(record) {
      gather().log.push(record)
      seq++
      return seq
    },
    add({ jobs = [], documents = [], reputation = [], ledger = [] }) {
      const batch = gather()
      for (const job of jobs) {
        const { id } = job.state
        const idempotency = job.idempotency ?? batch.jobs.get(id)?.idempotency
        batch.jobs.set(id, { ...job, ...(idempotency && { idempotency }) })
      }
      for (const document of documents) {
        const ofKind = batch.documents.get(document.kind) ?? new Map<string, Document>()
        ofKind.set(document.id, document)
        batch.documents.set(document.kind, ofKind)
      }
      for (const entry of reputation) batch.reputation.push(entry)
      for (const entry of ledger) batch.ledger.push(entry)
    },
    async durable() {
      alive()
      if (next) return next.written.promise
      await writing
      alive()
    },
    checkpoint(upTo) {
      gather().checkpoint = upTo
    },
    get seq() {
      return seq
    },
    get full() {
      return seq - writtenSeq >= maxUnflushedRecords
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
