import type { Instance, InstanceId, InstanceSpec, InstanceStatus, Quota } from '@bramble/protocol'
import type { LocalImage, Runtime, Sandbox, SandboxConfig, SandboxMount } from '@bramble/runtime'
import type { Claim } from '../accounts.ts'
import type { Place } from '../admission.ts'
import type { ExposureRow, InstanceRow } from '../store/instance-tables.ts'
import type { InstanceLease } from './instances.ts'
import type { SharedObserver } from './shared-observer.ts'
import type { ConnectedStream } from './stream.ts'

/** The name of `spec.command` among the named commands. */
export const MAIN = 'main'

export interface BoxEnd {
  readonly status: InstanceStatus | 'deleted'
  readonly reason?: string
}

/** The end of a sandbox, for those who wait for it for a while: it may live for weeks, and have millions of users. */
export interface BoxEnding {
  resolve(end: BoxEnd): void
  /** Calls back once, at once where it has ended. Returns what takes it back. */
  listen(onEnd: (end: BoxEnd) => void): () => void
}

export const boxEnding = (): BoxEnding => {
  const waiting = new Set<(end: BoxEnd) => void>()
  let ended: BoxEnd | undefined
  return {
    resolve(end) {
      ended ??= end
      for (const onEnd of waiting) onEnd(ended)
      waiting.clear()
    },
    listen(onEnd) {
      if (ended) onEnd(ended)
      else waiting.add(onEnd)
      return () => void waiting.delete(onEnd)
    },
  }
}

/** The sandbox that an instance has while it runs or is paused. */
export interface Box {
  readonly runtime: Runtime
  readonly image: LocalImage
  /** Another object for the same sandbox after its agent was connected again. */
  sandbox: Sandbox
  /** May be used: it runs, its agent answers, and nobody is about to stop it. */
  ready: boolean
  /** It is ending, or has ended by itself. */
  over: boolean
  /** When a lost connection to its agent was repaired last, by the monotonic clock. */
  reconnectedMs: number | undefined
  /** Processes that the kernel had killed for want of memory, as far as anybody looked. */
  oomKills: number
  readonly ended: BoxEnding
  /** Commands without a name: they end with the agent's connection, and are in no copy of the sandbox. */
  readonly running: Set<{ kill(signal: number): void }>
  readonly defaults: InstanceLease['defaults']
  readonly observer: SharedObserver
}

/** An instance of this node: its record, and its sandbox while it has one. */
export class LiveInstance {
  readonly spec: InstanceSpec
  readonly stream: ConnectedStream
  /** By port, in the order of ports. */
  exposures: ReadonlyMap<number, ExposureRow> = new Map()
  /** As it is in the store. */
  readonly row: InstanceRow
  box: Box | undefined
  /** What its next sandbox begins as, where that is not its layer. */
  from: SandboxConfig['from']
  /** Held while it runs or is paused. */
  place: Place | undefined
  leases = 0
  lastUsedMs: number
  #tail: Promise<unknown> = Promise.resolve()

  constructor(row: InstanceRow, spec: InstanceSpec, lastUsedMs: number, stream: ConnectedStream) {
    this.row = row
    this.spec = spec
    this.lastUsedMs = lastUsedMs
    this.stream = stream
  }

  get id(): InstanceId {
    return this.row.id as InstanceId
  }

  get claim(): Claim {
    const { cpus, memoryMb } = this.spec.resources
    const { tenant, key_id: keyId } = this.row
    return { tenant, keyId, cpus, memoryMb, quota: JSON.parse(this.row.quota) as Quota, lasting: true }
  }

  get mounts(): SandboxMount[] {
    return JSON.parse(this.row.mounts) as SandboxMount[]
  }

  /** Changes of one instance happen one after another. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#tail.then(work)
    this.#tail = done.catch(() => {})
    return done
  }

  /** Resolves when no change is under way. */
  settled(): Promise<unknown> {
    return this.#tail
  }
}

export const instanceOf = (row: InstanceRow, spec: InstanceSpec): Instance => ({
  id: row.id as InstanceId,
  ...(row.name !== null && { name: row.name }),
  status: row.status,
  ...(row.reason !== null && { reason: row.reason }),
  image: spec.image,
  imageDigest: row.image_digest,
  runtime: row.runtime,
  resources: spec.resources,
  network: spec.network,
  volumes: spec.volumes,
  caches: spec.caches,
  labels: spec.labels,
  createdAt: row.created_at,
  ...(row.started_at !== null && { startedAt: row.started_at }),
  expiresAt: row.expires_at,
  idleTtlMs: spec.idleTtlMs ?? null,
  idleAction: spec.idleAction,
  autoResume: spec.autoResume,
  ...(row.parent !== null && { parent: row.parent }),
  ...(row.snapshot_id !== null && { snapshotId: row.snapshot_id }),
})
