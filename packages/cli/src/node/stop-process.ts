import { setTimeout as delay } from 'node:timers/promises'
import { isAlive, type NodeRecord } from './node-file.ts'

/** Between looks at a process that is not a child, and so cannot be waited for. */
const pollMs = 20

/** Asks a process to end with SIGTERM, and says whether it was gone within `timeoutMs`. */
export const stopProcess = async (
  record: Pick<NodeRecord, 'pid' | 'startTicks'>,
  timeoutMs: number,
): Promise<boolean> => {
  if (!isAlive(record)) return true
  process.kill(record.pid, 'SIGTERM')
  const end = performance.now() + timeoutMs
  while (performance.now() < end) {
    if (!isAlive(record)) return true
    await delay(pollMs)
  }
  return !isAlive(record)
}
