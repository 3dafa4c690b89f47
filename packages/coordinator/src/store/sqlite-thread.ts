import { parentPort, workerData } from 'node:worker_threads'
import type { BatchRows } from './rows.ts'
import { openSqliteAppender } from './sqlite-append.ts'

/** The thread that writes to a SQLite file, and waits for the disk, so that the coordinator need not. */
export type ThreadRequest = { readonly epoch: number; readonly rows: BatchRows } | 'close'
export type ThreadAnswer = { readonly fenced: boolean } | { readonly message: string; readonly errcode: number }

const { path } = workerData as { readonly path: string }
const appender = openSqliteAppender(path)

const answer = (request: Exclude<ThreadRequest, 'close'>): ThreadAnswer => {
  try {
    return { fenced: appender.append(request.epoch, request.rows) }
  } catch (error) {
    const { message } = error as Error
    return { message, errcode: error instanceof Error && 'errcode' in error ? Number(error.errcode) : 0 }
  }
}

parentPort?.on('message', (request: ThreadRequest) => {
  if (request !== 'close') return parentPort?.postMessage(answer(request))
  appender.close()
  parentPort?.close()
})
