import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { SandboxStats } from '../runtime.ts'

/** The control groups of this host: where the hierarchies are mounted, and which version accounts for what. */
export interface Cgroups {
  readonly version: 1 | 2 | 'hybrid'
  /** Every mounted hierarchy, cgroup2 included. */
  readonly hierarchies: readonly string[]
  /** Where cgroup2 is mounted beside version 1. */
  readonly unified?: string
  /** The directory that accounts for a controller, or undefined where the host has none. */
  controller(name: 'memory' | 'cpu' | 'cpuacct' | 'pids'): string | undefined
}

/** Reads the cgroup mounts from `/proc/self/mountinfo` (proc(5)). */
export const findCgroups = (mountinfo = readFileSync('/proc/self/mountinfo', 'utf8')): Cgroups | undefined => {
  const byController = new Map<string, string>()
  const hierarchies: string[] = []
  let unified: string | undefined
  for (const line of mountinfo.split('\n')) {
    const [before = '', after = ''] = line.split(' - ')
    const path = before.split(' ')[4]
    const [type, , options = ''] = after.split(' ')
    if (path === undefined || (type !== 'cgroup' && type !== 'cgroup2')) continue
    hierarchies.push(path)
    if (type === 'cgroup2') unified = path
    else for (const option of options.split(',')) if (!byController.has(option)) byController.set(option, path)
  }
  if (hierarchies.length === 0) return undefined
  const version = byController.size === 0 ? 2 : unified === undefined ? 1 : 'hybrid'
  return {
    version,
    hierarchies,
    ...(version === 'hybrid' && unified !== undefined && { unified }),
    controller: (name) => (version === 2 ? unified : byController.get(name)),
  }
}

const numberOf = (text: string, name: string): number => {
  const found = new RegExp(`^${name} (\\d+)$`, 'm').exec(text)
  return found ? Number(found[1]) : 0
}

const readText = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

/** What the kernel accounted to one cgroup, below its hierarchies. Zeros where a file is gone or unknown. */
export const readStats = async (cgroups: Cgroups, path: string): Promise<Omit<SandboxStats, 'diskBytes'>> => {
  if (cgroups.version === 2) {
    const at = `${cgroups.controller('memory')}${path}`
    const [cpu, now, peak, events] = await Promise.all(
      ['cpu.stat', 'memory.current', 'memory.peak', 'memory.events'].map((file) => readText(`${at}/${file}`)),
    )
    const memoryBytes = Number(now)
    return {
      cpuMs: numberOf(cpu ?? '', 'usage_usec') / 1000,
      memoryBytes,
      // memory.peak came with Linux 5.19.
      peakMemoryBytes: Number(peak) || memoryBytes,
      oomKills: numberOf(events ?? '', 'oom_kill'),
    }
  }
  const memory = `${cgroups.controller('memory')}${path}`
  const [cpu, now, peak, control] = await Promise.all([
    readText(`${cgroups.controller('cpuacct')}${path}/cpuacct.usage`),
    readText(`${memory}/memory.usage_in_bytes`),
    readText(`${memory}/memory.max_usage_in_bytes`),
    readText(`${memory}/memory.oom_control`),
  ])
  return {
    cpuMs: Number(cpu) / 1e6,
    memoryBytes: Number(now),
    peakMemoryBytes: Number(peak),
    oomKills: numberOf(control ?? '', 'oom_kill'),
  }
}
