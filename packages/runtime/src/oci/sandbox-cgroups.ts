import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import type { SandboxResources } from '../runtime.ts'
import type { Cgroups } from './cgroups.ts'

const MIB = 1024 * 1024
const CPU_PERIOD_MICROS = 100_000
const MIN_CPU_QUOTA_MICROS = 1000
/** CRIU itself and its helpers, while they are in the cgroup. */
const RESTORE_MEMORY_BYTES = 64 * MIB
const RESTORE_PIDS = 64

/** `null`, `zero`, `full`, `random`, `urandom`, `tty`, `console`, `ptmx` and terminals; and mknod(2), which user namespaces forbid. */
const DEVICES = [
  ...['c *:* m', 'b *:* m', 'c 1:3 rwm', 'c 1:5 rwm', 'c 1:7 rwm', 'c 1:8 rwm', 'c 1:9 rwm'],
  ...['c 5:0 rwm', 'c 5:1 rwm', 'c 5:2 rwm', 'c 136:* rwm'],
]

/** Of a sandbox whose processes are restored. */
export interface SandboxCgroups {
  /** The limits themselves, once only the sandbox's processes are there. */
  settle(): Promise<void>
  /** Where nothing was put in them; others stay. */
  remove(): Promise<void>
}

/** Makes the cgroups that no OCI runtime makes, with limits that leave room for whoever restores. What fails leaves none. */
export const makeCgroups = async (
  cgroups: Cgroups,
  path: string,
  { cpus, memoryMb, pids }: SandboxResources,
  swapAccounting: boolean,
): Promise<SandboxCgroups> => {
  const isUnified = cgroups.version === 2
  const places = cgroups.hierarchies.filter((hierarchy) => hierarchy !== cgroups.unified)
  const write = (place: string | undefined, file: string, value: string | number): Promise<void> =>
    place === undefined ? Promise.resolve() : writeFile(`${place}${path}/${file}`, String(value))

  /** What a cgroup of version 1 has to have before a process may be in it, and the devices that its processes may open. */
  const admit = async (): Promise<void> => {
    const cpuset = places.find((place) => /(^|[/,])cpuset(,|$)/.test(place))
    for (const file of cpuset === undefined ? [] : ['cpuset.cpus', 'cpuset.mems'])
      await write(cpuset, file, await readFile(`${cpuset}${path}/../${file}`, 'utf8'))
    const devices = places.find((place) => /(^|[/,])devices(,|$)/.test(place))
    await write(devices, 'devices.deny', 'a')
    for (const rule of DEVICES) await write(devices, 'devices.allow', rule)
  }
  const setCpu = async (): Promise<void> => {
    const cpu = cgroups.controller('cpu')
    const quota = Math.max(MIN_CPU_QUOTA_MICROS, Math.round(cpus * CPU_PERIOD_MICROS))
    if (isUnified) return await write(cpu, 'cpu.max', `${quota} ${CPU_PERIOD_MICROS}`)
    await write(cpu, 'cpu.cfs_period_us', CPU_PERIOD_MICROS)
    await write(cpu, 'cpu.cfs_quota_us', quota)
  }
  const setMemory = async (bytes: number): Promise<void> => {
    const memory = cgroups.controller('memory')
    await write(memory, isUnified ? 'memory.max' : 'memory.limit_in_bytes', bytes)
    if (!swapAccounting) return
    // With version 1 the limit with swap is never below the one without: from no limit, or a higher one, it comes second.
    if (isUnified) await write(memory, 'memory.swap.max', 0)
    else await write(memory, 'memory.memsw.limit_in_bytes', bytes)
  }
  const setPids = (count: number): Promise<void> => write(cgroups.controller('pids'), 'pids.max', count)

  const remove = async (): Promise<void> => {
    for (const place of places) await rmdir(`${place}${path}`).catch(() => {})
  }
  try {
    for (const place of places) await mkdir(`${place}${path}`, { recursive: true })
    if (!isUnified) await admit()
    await setCpu()
    await setMemory(memoryMb * MIB + RESTORE_MEMORY_BYTES)
    await setPids(pids + RESTORE_PIDS)
  } catch (error) {
    await remove()
    throw error
  }
  return {
    settle: async () => {
      await setMemory(memoryMb * MIB)
      await setPids(pids)
    },
    remove,
  }
}
