import { availableParallelism, totalmem } from 'node:os'
import type { EngineLimits } from './engine.ts'

const MIB = 1024 * 1024

/**
 * How much more memory sandboxes may be promised than the host has. A limit is what a sandbox may use at most, not what
 * it uses: most use a few MiB of it. The kernel's OOM killer, inside each sandbox's own cgroup, holds the single limit.
 */
export const MEMORY_OVERCOMMIT = 4

/** Memory of this host, or of the cgroup that this process lives in, in MiB. */
export const hostMemoryMb = (): number => {
  const constrained = process.constrainedMemory()
  const bytes = constrained > 0 && constrained < totalmem() ? constrained : totalmem()
  return Math.floor(bytes / MIB)
}

export interface Host {
  readonly cpus: number
  readonly memoryMb: number
  readonly memoryOvercommit: number
}

/** The bounds of an engine on `host`, where its options do not say otherwise. */
export const defaultEngineLimits = (host: Partial<Host> = {}): EngineLimits => {
  const cpus = host.cpus ?? availableParallelism()
  const maxMemoryMb = Math.floor((host.memoryMb ?? hostMemoryMb()) * (host.memoryOvercommit ?? MEMORY_OVERCOMMIT))
  return {
    maxRunning: Math.max(64, cpus * 16),
    maxQueued: 1024,
    maxQueuedOverQuota: 256,
    maxMemoryMb,
    maxPooledMemoryMb: Math.floor(maxMemoryMb * 0.75),
    maxPooled: 256,
    maxPools: 128,
    minReady: 2,
    maxStarting: Math.max(2, cpus),
    maxDestroying: Math.max(2, cpus),
    maxEnding: 128,
    startTimeoutMs: 60_000,
    killGraceMs: 2_000,
    filesTimeoutMs: 30_000,
    blobFilesTimeoutMs: 600_000,
    maxKeptOutputBytes: 512 * MIB,
    maxHistory: 10_000,
    maxHistoryBytes: 1024 * MIB,
    historyFlushMs: 200,
    maxRunningInstances: 1000,
    maxInstances: 10_000,
    maxTenantInstances: 2_000,
    instanceWaitMs: 10_000,
    stopGraceMs: 5_000,
    maxSealBytes: 20 * 1024 * MIB,
    streamStallMs: 10_000,
  }
}
