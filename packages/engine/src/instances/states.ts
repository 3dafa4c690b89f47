import type { InstanceId } from '@bramble/protocol'

/**
 * What instances need to know of snapshots. A state that is opened stays on this host, ready to be continued, until it is
 * given back.
 */
export interface States {
  /**
   * `ref`: of a snapshot. `memory`: with its processes; absent: where it has any, and this host can run them. Rejects with
   * `not_found`, `snapshot_incompatible`.
   */
  open(ref: string, tenant: string, options: { memory?: boolean | undefined; signal: AbortSignal }): Promise<OpenState>
  /** These began as that state: it is on disk before anybody is told of them. */
  began(instances: readonly InstanceId[], origin: Origin): Promise<void>
  /** They could not be made after all. */
  forget(instances: readonly InstanceId[]): Promise<void>
}

export interface OpenState extends Disposable {
  /** The snapshot. */
  readonly id: string
  readonly runtime: string
  readonly imageDigest: string
  readonly seal: string
  readonly memory: boolean
}

export interface Origin {
  readonly tenant: string
  readonly parent: string
  readonly parentKind: 'instance' | 'snapshot'
  /** What the files of its instances have in common: a snapshot, or a seal. */
  readonly state: string
  readonly memory: boolean
}
