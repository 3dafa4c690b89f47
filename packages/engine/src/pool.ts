import { BrambleError, type NetworkPolicy, newId, type SandboxId } from '@bramble/protocol'
import type {
  LocalImage,
  Runtime,
  Sandbox,
  SandboxConfig,
  SandboxMount,
  SandboxResources,
  SandboxStats,
} from '@bramble/runtime'
import { type CommandDefaults, HOSTNAME } from './command.ts'
import { createDemand, type Demand } from './demand.ts'

/** Sandboxes of one kind are exchangeable: same image, resources, driver and network. */
export interface Kind {
  readonly image: LocalImage
  readonly runtime: Runtime
  readonly resources: SandboxResources
  readonly network?: NetworkPolicy
  readonly mounts?: readonly SandboxMount[]
  /** The state that it begins as. */
  readonly from?: SandboxConfig['from']
  /** What a command of it has where it does not say, above its image. */
  readonly defaults?: CommandDefaults
  /** Told when a sandbox of it is gone, however it ended. */
  readonly onGone?: (id: SandboxId) => void
}

/** Made ahead only where any tenant may get it; what one asked for by name is made when it is asked for. */
export const isExchangeable = ({ network = 'none', mounts = [], from }: Kind): boolean =>
  typeof network === 'string' && mounts.length === 0 && from === undefined

export const nameOfKind = ({ image, runtime, resources, network = 'none', mounts = [], from }: Kind): string => {
  const { cpus, memoryMb, diskMb, pids } = resources
  return `${image.digest} ${runtime.name} ${cpus} ${memoryMb} ${diskMb} ${pids} ${JSON.stringify(network)} ${JSON.stringify(mounts)} ${from?.seal ?? ''} ${from?.memory ?? ''}`
}

/** A sandbox nobody has used, with the kernel's account of it when it was ready. */
export interface Fresh {
  readonly sandbox: Sandbox
  readonly baseline: SandboxStats
}

/** Someone to whom a pool owes a sandbox. */
export interface Taker {
  /** Rises with every taker of every pool. */
  readonly turn: number
  readonly resolve: (fresh: Fresh | undefined) => void
  readonly reject: (error: unknown) => void
}

/** Waits until a pool holds what `prewarm` asked for. */
export interface FloorWatcher {
  readonly count: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/** The sandboxes of one kind: ready, being made, and owed. Plain state: `Pools` alone changes it. */
export interface Pool {
  readonly name: string
  readonly kind: Kind
  /** Oldest first. */
  readonly ready: Fresh[]
  /** First come first. The first `starting` of them are served by what is being made. */
  readonly takers: Taker[]
  readonly watchers: Set<FloorWatcher>
  readonly starts: Set<AbortController>
  readonly demand: Demand
  starting: number
  floor: number
  hits: number
  misses: number
  /** Makings, and idle sandboxes, that failed in a row. */
  failures: number
  /** Nothing is made ahead of demand before this time. */
  retryAtMs: number
  /** Mean duration of making one. */
  createMs: number
  retired: boolean
}

const FIRST_CREATE_MS = 50
const BACKOFF_MIN_MS = 250
const BACKOFF_MAX_MS = 30_000

export const createPool = (kind: Kind): Pool => ({
  name: nameOfKind(kind),
  kind,
  ready: [],
  takers: [],
  watchers: new Set(),
  starts: new Set(),
  demand: createDemand(),
  starting: 0,
  floor: 0,
  hits: 0,
  misses: 0,
  failures: 0,
  retryAtMs: 0,
  createMs: FIRST_CREATE_MS,
  retired: false,
})

/** Sandboxes that are, or will be, in the pool and not owed to anyone. */
export const spareOf = (pool: Pool): number => pool.ready.length + Math.max(0, pool.starting - pool.takers.length)

export const noteFailure = (pool: Pool, nowMs: number): void => {
  pool.failures++
  pool.retryAtMs = nowMs + Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(20, pool.failures - 1))
}

/** What continues a state is another machine than the one whose state it was. */
const machineOf = ({ from }: Kind): Pick<SandboxConfig, 'id' | 'hostname' | 'from'> => {
  const id = newId('sandbox')
  return from ? { id, hostname: id.replace('_', '-'), from } : { id, hostname: HOSTNAME }
}

/** Makes one sandbox of the kind. Rejects, with nothing left behind, after `timeoutMs` or when `signal` aborts. */
export const makeFresh = async (kind: Kind, timeoutMs: number, signal: AbortSignal): Promise<Fresh> => {
  const timeout = AbortSignal.timeout(timeoutMs)
  const either = AbortSignal.any([timeout, signal])
  const config: SandboxConfig = {
    image: kind.image,
    resources: kind.resources,
    ...machineOf(kind),
    ...(kind.network !== undefined && { network: kind.network }),
    ...(kind.mounts !== undefined && { mounts: kind.mounts }),
  }
  try {
    await kind.runtime.prepare(kind.image, { signal: either })
    const sandbox = await kind.runtime.create(config, { signal: either })
    const { onGone } = kind
    // Where it could not be destroyed, something may still write to what it had.
    if (onGone)
      void sandbox.ended
        .then(() => sandbox.destroy())
        .then(
          () => onGone(sandbox.id),
          () => {},
        )
    try {
      return { sandbox, baseline: await sandbox.stats() }
    } catch (error) {
      await sandbox.destroy()
      throw error
    }
  } catch (error) {
    if (!timeout.aborted || signal.aborted) throw error
    throw new BrambleError('sandbox_failed', { detail: `it was not ready after ${timeoutMs} ms`, cause: error })
  }
}
