import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import type { NetworkSummary } from '../local-network/network-summary.ts'
import { logFileOf } from './log-file.ts'
import type { Summary } from './summary.ts'

/** What a node in the background tells the process that started it. */
export type FromBackground =
  | Summary
  | NetworkSummary
  | { readonly type: 'failed'; readonly message: string; readonly hint: string | undefined }

/**
 * Starts this program again with `args` in a session of its own, its output in the node's log, and gives its first
 * message. The message comes over an IPC channel; then the two part.
 */
export const startInBackground = (
  args: readonly string[],
  dataDirectory: string,
  signal: AbortSignal,
): Promise<FromBackground> => {
  mkdirSync(dataDirectory, { recursive: true, mode: 0o700 })
  const log = openSync(logFileOf(dataDirectory), 'a', 0o600)
  const { promise, resolve, reject } = Promise.withResolvers<FromBackground>()
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1] ?? '', ...args], {
    detached: true,
    stdio: ['ignore', log, log, 'ipc'],
    cwd: dataDirectory,
  })
  closeSync(log)
  const abort = (): void => void child.kill('SIGTERM')
  signal.addEventListener('abort', abort, { once: true })
  child.once('error', reject)
  child.once('message', (message) => resolve(message as FromBackground))
  child.once('exit', (code, by) =>
    resolve({
      type: 'failed',
      message: `the node ended at its start (${by ?? code})`,
      hint: `Its last words are in ${logFileOf(dataDirectory)}.`,
    }),
  )
  return promise.finally(() => {
    signal.removeEventListener('abort', abort)
    if (child.connected) child.disconnect()
    child.unref()
  })
}

/** In the background process: tells the one that started it, and lets go of it. */
export const tellStarter = (message: FromBackground): void => {
  if (process.send === undefined) return
  process.send(message, () => {
    if (process.connected) process.disconnect()
  })
}
