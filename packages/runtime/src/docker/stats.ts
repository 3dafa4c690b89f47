import type Docker from 'dockerode'
import type { Agent } from '../agent/agent.ts'
import { getFile } from '../agent/files.ts'
import type { SandboxStats } from '../runtime.ts'

type Usage = Omit<SandboxStats, 'diskBytes'>

/** The part of the engine's answer that counts here. */
interface EngineStats {
  cpu_stats?: { cpu_usage?: { total_usage?: number } }
  memory_stats?: { usage?: number; max_usage?: number }
  pids_stats?: { current?: number }
}

const ONE_SHOT = { stream: false, 'one-shot': true } as const
/** The type of the library lacks the option. */
const WITH_SIZE: object = { size: true }
const maxFileBytes = 4096
const fileTimeoutMs = 2000
/** The agent's own program even where somebody replaced the file it was started from. */
const RUNNING_AGENT = '/proc/self/exe'

/**
 * What the kernel accounted. The engine answers with its sample of up to a second ago, and only when it takes the next; so
 * the sandbox's own cgroup files are read, by the agent, and the engine is asked only when that fails. They are mounted
 * read-only, and a sandbox that interferes with its agent's reading of them misinforms about nobody else.
 */
export const readStats = async (
  container: Docker.Container,
  agent: Agent,
  { cgroupVersion, paused, seenOomKills }: { cgroupVersion: 1 | 2; paused: boolean; seenOomKills: () => number },
): Promise<SandboxStats> => {
  // A paused agent answers nothing.
  const inside = paused ? Promise.resolve(undefined) : usageInside(agent, cgroupVersion)
  const [usage, { SizeRw }] = await Promise.all([
    inside.then((found) => found ?? usageByEngine(container)),
    container.inspect(WITH_SIZE) as Promise<{ SizeRw?: number }>,
  ])
  return {
    ...usage,
    peakMemoryBytes: Math.max(usage.peakMemoryBytes, usage.memoryBytes),
    oomKills: Math.max(usage.oomKills, seenOomKills()),
    diskBytes: SizeRw ?? 0,
  }
}

const usageByEngine = async (container: Docker.Container): Promise<Usage> => {
  const { cpu_stats, memory_stats, pids_stats } = (await container.stats(ONE_SHOT)) as EngineStats
  return {
    cpuMs: (cpu_stats?.cpu_usage?.total_usage ?? 0) / 1e6,
    memoryBytes: memory_stats?.usage ?? 0,
    peakMemoryBytes: memory_stats?.max_usage ?? 0,
    oomKills: 0,
    egressBytes: 0,
    ingressBytes: 0,
    processes: pids_stats?.current ?? 0,
  }
}

const FILES = {
  1: [
    'cpuacct/cpuacct.usage',
    'memory/memory.usage_in_bytes',
    'memory/memory.max_usage_in_bytes',
    'memory/memory.oom_control',
  ],
  2: ['cpu.stat', 'memory.current', 'memory.peak', 'memory.events'],
} as const
const COUNT = { 1: 'pids/pids.current', 2: 'pids.current' } as const

const usageInside = async (agent: Agent, version: 1 | 2): Promise<Usage | undefined> => {
  const signal = AbortSignal.timeout(fileTimeoutMs)
  const read = async (file: string): Promise<string> => {
    const options = { path: `/sys/fs/cgroup/${file}`, maxBytes: maxFileBytes, signal, agentPath: RUNNING_AGENT }
    const got = await getFile(agent, options)
    return 'content' in got ? got.content.toString('latin1') : ''
  }
  const texts = await Promise.all(FILES[version].map(read)).catch(() => undefined)
  // By itself, when the other readers are gone; its own reader is one of those it counts.
  const count = await read(COUNT[version]).catch(() => '')
  if (!texts) return undefined
  const [cpu = '', now = '', peak = '', events = ''] = texts
  const cpuMs = version === 2 ? field(cpu, 'usage_usec') / 1e3 : Number(cpu) / 1e6
  const memoryBytes = Number(now)
  if (cpu === '' || now === '' || !Number.isFinite(cpuMs + memoryBytes)) return undefined
  // memory.peak came with Linux 5.19.
  return {
    cpuMs,
    memoryBytes,
    peakMemoryBytes: Number(peak) || memoryBytes,
    oomKills: field(events, 'oom_kill'),
    egressBytes: 0,
    ingressBytes: 0,
    processes: Math.max(1, Number(count) - 1 || 1),
  }
}

const field = (text: string, name: string): number => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1] ?? 0)
