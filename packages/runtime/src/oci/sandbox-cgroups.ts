import { mkdir, readFile, writeFile } from 'node:fs/promises'
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

/** Makes the cgroups of a sandbox that no OCI runtime makes: one whose processes are restored. */
export const makeCgroups = async (cgroups: Cgroups, path: string, swapAccounting: boolean): Promise<SandboxCgroups> => {
  const places = cgroups.hierarchies.filter((hierarchy) => hierarchy !== cgroups.unified)
  const first = cgroups.version === 2
  for (const place of places) await mkdir(`${place}${path}`, { recursive: true })
  const write = (place: string | undefined, file: string, value: string | number): Promise<void> =>
    place === undefined ? Promise.resolve() : writeFile(`${place}${path}/${file}`, String(value))
  if (!first) {
    const cpuset = places.find((place) => /(^|[/,])cpuset(,|$)/.test(place))
    for (const file of cpuset === undefined ? [] : ['cpuset.cpus', 'cpuset.mems'])
      await write(cpuset, file, await readFile(`${cpuset}${path}/../${file}`, 'utf8'))
    const devices = places.find((place) => /(^|[/,])devices(,|$)/.test(place))
    if (devices !== undefined) {
      await write(devices, 'devices.deny', 'a')
      for (const rule of DEVICES) await write(devices, 'devices.allow', rule)
    }
  }
  const memory = cgroups.controller('memory')
  const pids = cgroups.controller('pids')
  const cpu = cgroups.controller('cpu')
  const setMemory = async (bytes: number): Promise<void> => {
    if (first) {
      await write(memory, 'memory.max', bytes)
      if (swapAccounting) await write(memory, 'memory.swap.max', 0)
      return
    }
    // The limit with swap is never below the one without: from no limit, or a higher one, it comes second.
    await write(memory, 'memory.limit_in_bytes', bytes)
    if (swapAccounting) await write(memory, 'memory.memsw.limit_in_bytes', bytes)
  }
  return {
    allow: async ({ cpus, memoryMb, pids: count }) => {
      const quota = Math.max(MIN_CPU_QUOTA_MICROS, Math.round(cpus * CPU_PERIOD_MICROS))
      if (first) await write(cpu, 'cpu.max', `${quota} ${CPU_PERIOD_MICROS}`)
      else {
        await write(cpu, 'cpu.cfs_period_us', CPU_PERIOD_MICROS)
        await write(cpu, 'cpu.cfs_quota_us', quota)
      }
      await setMemory(memoryMb * MIB + RESTORE_MEMORY_BYTES)
      await write(pids, 'pids.max', count + RESTORE_PIDS)
    },
    settle: async ({ memoryMb, pids: count }) => {
      await setMemory(memoryMb * MIB)
      await write(pids, 'pids.max', count)
    },
  }
}

export interface SandboxCgroups {
  /** The limits, with room for whoever restores. */
  allow(resources: SandboxResources): Promise<void>
  /** The limits themselves, once only the sandbox's processes are there. */
  settle(resources: SandboxResources): Promise<void>
}
