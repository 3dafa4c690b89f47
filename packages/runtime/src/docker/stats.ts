import type Docker from 'dockerode'
import type { Agent } from '../agent/agent.ts'
import { getFile } from '../agent/files.ts'
import type { SandboxStats } from '../runtime.ts'

/** The part of the engine's answer that counts here; version 1 and 2 of cgroups differ in what is there. */
interface EngineStats {
  cpu_stats?: { cpu_usage?: { total_usage?: number } }
  memory_stats?: { usage?: number; max_usage?: number; stats?: Record<string, number> }
}

/** Without `one-shot` the engine waits a second for a second sample. */
const ONE_SHOT = { stream: false, 'one-shot': true } as const
/** The type of the library lacks the option. */
const WITH_SIZE: object = { size: true }
const maxFileBytes = 4096
const fileTimeoutMs = 2000
const OOM_FILES = ['/sys/fs/cgroup/memory/memory.oom_control', '/sys/fs/cgroup/memory.events']

/**
 * What the engine accounts. Kills for want of memory come as events, which may be late by the time that a command's end is
 * known; the sandbox's own view of its cgroup is not, and a sandbox that falsifies it only misinforms its own user.
 */
export const readStats = async (
  container: Docker.Container,
  agent: Agent,
  cgroupVersion: 1 | 2,
  seenOomKills: () => number,
): Promise<SandboxStats> => {
  const [usage, { SizeRw }, inside] = await Promise.all([
    container.stats(ONE_SHOT) as Promise<EngineStats>,
    container.inspect(WITH_SIZE) as Promise<{ SizeRw?: number }>,
    oomKillsInside(agent, OOM_FILES[cgroupVersion - 1] ?? ''),
  ])
  const memory = usage.memory_stats ?? {}
  const memoryBytes = memory.usage ?? 0
  return {
    cpuMs: (usage.cpu_stats?.cpu_usage?.total_usage ?? 0) / 1e6,
    memoryBytes,
    peakMemoryBytes: Math.max(memory.max_usage ?? 0, memoryBytes),
    oomKills: Math.max(seenOomKills(), inside),
    diskBytes: SizeRw ?? 0,
  }
}

const oomKillsInside = async (agent: Agent, path: string): Promise<number> => {
  const signal = AbortSignal.timeout(fileTimeoutMs)
  const file = await getFile(agent, { path, maxBytes: maxFileBytes, signal }).catch(() => undefined)
  if (!file || !('content' in file)) return 0
  return Number(/^oom_kill (\d+)$/m.exec(file.content.toString('latin1'))?.[1] ?? 0)
}
