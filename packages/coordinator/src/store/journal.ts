import type { Batch } from './store.ts'

/**
 * Group commit: everything that happens while a batch is being written goes into the next one. A batch begins at once when
 * nothing is being written, so that one lonely request waits for one write and no timer.
 *
 * `durable()` resolves when all that was noted before the call is on disk. It rejects for all alike when a write failed: what
 * was noted is then lost, and the writer has to begin again from the store.
 */
export interface Journal extends AsyncDisposable {
  /** Numbers the record. */
  log(record: unknown): number
  /** Adds to the batch that is being gathered; later values of the same job or document replace earlier ones. */
  add(part: Partial<Pick<Batch, 'jobs' | 'documents' | 'reputation' | 'ledger'>>): void
  durable(): Promise<void>
  /** Documents and jobs written by now, and with the batch being gathered, hold everything up to the record `seq`. */
  checkpoint(seq: number): void
  /** Of the last record. */
  readonly seq: number
  /** So much waits to be written that nothing new should be begun: recording goes on, but whoever asks is to be refused. */
  readonly full: boolean
  /** Writes what was noted. What is noted later is lost, and `durable()` rejects for it. */
  close(): Promise<void>
}
