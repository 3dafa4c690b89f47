import { lstat, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { SandboxStats } from '../runtime.ts'
import { statFields } from './pid-file.ts'

/** USER_HZ, which Linux shows to programs as 100 on every architecture (time(7)). */
const TICKS_PER_SECOND = 100
const maxProcesses = 1024
const maxFiles = 10_000

/** The processes below `pid`, itself included, as far as they can be seen; a tree in motion is never seen whole. */
const processTree = async (pid: number): Promise<number[]> => {
  const pids = [pid]
  for (let next = 0; next < pids.length && pids.length < maxProcesses; next++) {
    const path = `/proc/${pids[next]}/task/${pids[next]}/children`
    const children = await readFile(path, 'latin1').catch(() => '')
    pids.push(...children.split(' ').filter(Boolean).map(Number))
  }
  return pids
}

const residentBytes = async (pid: number): Promise<number> => {
  const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '')
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024
}

export const directoryBytes = async (directory: string): Promise<number> => {
  let bytes = 0
  const entries = await readdir(directory, { recursive: true }).catch(() => [])
  for (const name of entries.slice(0, maxFiles))
    bytes += await lstat(join(directory, name)).then(
      ({ blocks }) => blocks * 512,
      () => 0,
    )
  return bytes
}

/** The agent reaps every command, so its own entry in /proc has their processor time; memory is what runs now. */
export const readStats = async (pid: number, directory: string): Promise<Omit<SandboxStats, 'peakMemoryBytes'>> => {
  const [pids, diskBytes] = await Promise.all([processTree(pid), directoryBytes(directory)])
  const ticks = await Promise.all(
    pids.map(async (each) => {
      const fields = await statFields(each)
      // utime, stime, and those of children that were waited for: the children of others are counted by themselves.
      return (fields?.slice(11, 15) ?? []).reduce((sum, field) => sum + Number(field), 0)
    }),
  )
  const resident = await Promise.all(pids.map(residentBytes))
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0)
  return {
    cpuMs: (sum(ticks) * 1000) / TICKS_PER_SECOND,
    memoryBytes: sum(resident),
    oomKills: 0,
    diskBytes,
    egressBytes: 0,
    ingressBytes: 0,
    processes: pids.length,
  }
}
