import { existsSync, readFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import type { SandboxStats } from '../runtime.ts'

/** The control groups of this host: where the hierarchies are mounted, and which version accounts for what. */
export interface Cgroups {
  readonly version: 1 | 2 | 'hybrid'
  /** Every mounted hierarchy, cgroup2 included. */
  readonly hierarchies: readonly string[]
  /** Where cgroup2 is mounted beside version 1. */
  readonly unified?: string
  /** The directory that accounts for a controller, or undefined where the host has none. */
  controller(name: 'memory' | 'cpu' | 'cpuacct' | 'pids' | 'freezer'): string | undefined
}

/** What cgroup2 may control at and below a directory; nothing where it cannot be read. */
const availableIn = (path: string): string[] => {
  try {
    return readFileSync(`${path}/cgroup.controllers`, 'utf8').trim().split(' ')
  } catch {
    return []
  }
}

/** Reads the cgroup mounts from `/proc/self/mountinfo` (proc(5)). */
export const findCgroups = (
  mountinfo = readFileSync('/proc/self/mountinfo', 'utf8'),
  controllersOf: (path: string) => readonly string[] = availableIn,
): Cgroups | undefined => {
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
  if (version === 2 && unified !== undefined) {
    for (const controller of controllersOf(unified)) byController.set(controller, unified)
    // Its accounting of processor time and its freezer are no controllers (`cpu.stat`, `cgroup.freeze` are everywhere).
    byController.set('cpuacct', unified)
    byController.set('freezer', unified)
  }
  return {
    version,
    hierarchies,
    ...(version === 'hybrid' && unified !== undefined && { unified }),
    controller: (name) => byController.get(name),
  }
}

/**
 * Whether swap can be limited in `cgroup`, a path below the hierarchies. Version 2 shows its files in a cgroup only once
 * the parent hands the controller down: the cgroup is made, and `memory` handed to it, which the OCI runtime would do next.
 */
export const limitsSwap = async (cgroups: Cgroups, cgroup: string): Promise<boolean> => {
  const memory = cgroups.controller('memory')
  if (memory === undefined) return false
  if (cgroups.version !== 2) return existsSync(`${memory}/memory.memsw.limit_in_bytes`)
  let at = memory
  for (const part of cgroup.split('/').filter((name) => name !== '')) {
    await writeFile(`${at}/cgroup.subtree_control`, '+memory').catch(() => {})
    at = `${at}/${part}`
    await mkdir(at, { recursive: true }).catch(() => {})
  }
  return existsSync(`${at}/memory.swap.max`)
}

const numberOf = (text: string, name: string): number => {
  const found = new RegExp(`^${name} (\\d+)$`, 'm').exec(text)
  return found ? Number(found[1]) : 0
}

const readText = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

/** What the kernel accounted to one cgroup, below its hierarchies. Zeros where a file is gone or unknown. */
export const readStats = async (
  cgroups: Cgroups,
  path: string,
): Promise<Omit<SandboxStats, 'diskBytes' | 'egressBytes' | 'ingressBytes'>> => {
  const counting = readText(`${cgroups.controller('pids')}${path}/pids.current`)
  if (cgroups.version === 2) {
    const at = `${cgroups.controller('cpuacct')}${path}`
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
      processes: Number(await counting),
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
    processes: Number(await counting),
  }
}
