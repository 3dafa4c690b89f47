import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { BrambleError } from '@bramble/protocol'
import type { BatchRows } from './rows.ts'
import type { ThreadAnswer, ThreadRequest } from './sqlite-thread.ts'

/** Appends by a thread of its own, one after another. */
export interface SqliteWriter {
  /** False: `epoch` is not the present one. */
  append(epoch: number, rows: BatchRows): Promise<boolean>
  close(): Promise<void>
}

/** SQLITE_BUSY, SQLITE_FULL, SQLITE_CONSTRAINT (https://sqlite.org/rescode.html). */
const CODES: Readonly<Record<number, 'conflict' | 'store_full'>> = { 5: 'conflict', 13: 'store_full', 19: 'conflict' }

const openThread = (path: string): SqliteWriter => {
  const thread = new Worker(new URL('./sqlite-thread.ts', import.meta.url), { workerData: { path }, execArgv: [] })
  const waiting: PromiseWithResolvers<boolean>[] = []
  let failed: BrambleError | undefined

  // It keeps the process only while somebody waits for it.
  thread.unref()
  const ask = (request: ThreadRequest): void => {
    thread.ref()
    thread.postMessage(request)
  }
  const fail = (error: BrambleError): void => {
    failed ??= error
    for (const one of waiting.splice(0)) one.reject(failed)
  }
  thread.on('message', (answer: ThreadAnswer) => {
    const one = waiting.shift()
    if (waiting.length === 0) thread.unref()
    if ('fenced' in answer) return one?.resolve(answer.fenced)
    const code = CODES[answer.errcode & 0xff] ?? 'internal'
    one?.reject(new BrambleError(code, { detail: `${path}: ${answer.message}` }))
  })
  thread.on('error', (cause) => fail(new BrambleError('internal', { detail: `${path} cannot be written`, cause })))
  thread.on('exit', () => fail(new BrambleError('shutting_down', { detail: `${path} is closed` })))

  return {
    async append(epoch, rows) {
      if (failed) throw failed
      const one = Promise.withResolvers<boolean>()
      waiting.push(one)
      ask({ epoch, rows })
      return one.promise
    },
    async close() {
      if (failed) return
      const ended = once(thread, 'exit')
      ask('close')
      await ended
    },
  }
}

/** The thread begins when it is needed: who only reads has none. */
export const openSqliteWriter = (path: string): SqliteWriter => {
  let thread: SqliteWriter | undefined
  let closing: Promise<void> | undefined
  return {
    async append(epoch, rows) {
      if (closing) throw new BrambleError('shutting_down', { detail: `${path} is closed` })
      thread ??= openThread(path)
      return thread.append(epoch, rows)
    },
    close() {
      closing ??= thread?.close() ?? Promise.resolve()
      return closing
    },
  }
}
