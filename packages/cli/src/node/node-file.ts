import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { nodeFile } from '../data-directory.ts'

/** Where a running node is, as other processes of this host find it. */
export interface NodeRecord {
  readonly url: string
  /** Where SSH listens; undefined where it is off. */
  readonly sshPort?: number
  readonly pid: number
  readonly startedAt: string
  /**
   * When the process began, in clock ticks since boot (field 22 of proc_pid_stat(5)); null where there is no `/proc`. With
   * the pid it names a process for good: pids are used again.
   */
  readonly startTicks: number | null
}

/** State and start of a process by `/proc`; null where it is not there. */
const statOf = (pid: number): { state: string; startTicks: number } | null => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The name of the program is in parentheses and may hold anything; field 3 follows the last one.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { state: fields[0] ?? '', startTicks: Number(fields[19]) }
  } catch {
    return null
  }
}

export const startTicksOf = (pid: number): number | null => statOf(pid)?.startTicks ?? null

/** Written whole or not at all, readable by its owner only. */
export const writeNodeFile = (
  directory: string,
  record: Pick<NodeRecord, 'url' | 'sshPort' | 'startedAt'>,
): NodeRecord => {
  const whole: NodeRecord = { ...record, pid: process.pid, startTicks: startTicksOf(process.pid) }
  const file = nodeFile(directory)
  writeFileSync(`${file}.new`, `${JSON.stringify(whole)}\n`, { mode: 0o600 })
  renameSync(`${file}.new`, file)
  return whole
}

export const removeNodeFile = (directory: string): void => rmSync(nodeFile(directory), { force: true })

/** The node that runs on this data directory, or undefined: none, or one that ended without saying so. */
export const runningNode = (directory: string): NodeRecord | undefined => {
  let record: NodeRecord
  try {
    record = JSON.parse(readFileSync(nodeFile(directory), 'utf8'))
  } catch {
    return undefined
  }
  return isAlive(record) ? record : undefined
}

export const isAlive = ({ pid, startTicks }: Pick<NodeRecord, 'pid' | 'startTicks'>): boolean => {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  if (startTicks === null) return true
  const stat = statOf(pid)
  // A zombie has ended; that nobody reaped it is not its node's affair.
  return stat !== null && stat.startTicks === startTicks && stat.state !== 'Z'
}
