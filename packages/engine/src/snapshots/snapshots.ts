import type {
  Branch,
  BranchesRequest,
  BranchesResponse,
  Instance,
  MergeRequest,
  MergeResponse,
  RestoreRequest,
  Snapshot,
  SnapshotChange,
  SnapshotDiff,
  SnapshotRequest,
} from '@bramble/protocol'
import type { InstanceContext } from '../instances/instances.ts'

/**
 * Snapshots, branches and merges.
 *
 * A snapshot is taken in two steps: a *seal* of the runtime, for which the sandbox stands still, and the *manifest* with its
 * blobs, written from the seal while the sandbox goes on. When `take` resolves, the manifest and all that it names are
 * durable on this node; `settled` says when they are in the lower tier. The seal stays as long as it is recently used, and
 * makes the next restore fast; without it a restore reads the blobs.
 *
 * Branches need no blobs: they continue from a seal.
 *
 * A tenant sees its own only. Errors: `not_found`, `conflict`, `unsupported`, `checkpoint_refused`, `snapshot_incompatible`,
 * `merge_conflict` (by those who insist), `import_refused`, `quota_exceeded`, and those of stores.
 */
export interface Snapshots {
  /** `ref`: an instance, by id or name. */
  take(ref: string, request: SnapshotRequest, context: InstanceContext): Promise<Snapshot>
  /** `ref`: a hash, a prefix of one (8 or more characters), or a name; on this node, or in the shared tier. */
  get(ref: string, tenant: string): Promise<Snapshot>
  list(query: SnapshotQuery): Promise<{ items: Snapshot[]; nextCursor: string | null }>
  change(ref: string, tenant: string, change: SnapshotChange): Promise<Snapshot>
  /** Its blobs go with the next collection, where no other snapshot has them. Safe twice (`not_found` then). */
  remove(ref: string, tenant: string): Promise<void>
  /**
   * Pauses an instance into a snapshot with its memory, and lets its sandbox go: nothing of it is held but what the store has.
   * Resuming it goes on from there, on this node; `restore` does on another one. Where it is refused, it goes on as it was.
   */
  pause(ref: string, context: InstanceContext): Promise<Instance>
  /** An instance that continues from it. */
  restore(ref: string, request: RestoreRequest, context: InstanceContext): Promise<Instance>
  diff(from: string, to: string, tenant: string, options?: { signal?: AbortSignal }): Promise<SnapshotDiff>
  /** One file, to be written somewhere or sent. */
  export(ref: string, tenant: string, options?: ExportOptions): Promise<AsyncIterable<Uint8Array>>
  /** What `export` gave. Nothing outside a staging folder is touched before all of it is verified. */
  import(source: AsyncIterable<Uint8Array>, request: ImportRequest, context: InstanceContext): Promise<Snapshot>
  branch(request: BranchesRequest, context: InstanceContext): Promise<BranchesResponse>
  branches(query: BranchQuery): Promise<{ items: Branch[]; nextCursor: string | null }>
  merge(request: MergeRequest, context: InstanceContext): Promise<MergeResponse>
  /**
   * Removes blobs and seals that nothing needs any more. Runs by itself when the node rests. What was put within `graceMs`
   * (default 1 h) stays, whoever needs it.
   */
  collect(options?: {
    signal?: AbortSignal
    graceMs?: number
  }): Promise<{ blobs: number; storedBytes: number; seals: number }>
}

export interface SnapshotQuery {
  readonly tenant: string
  readonly limit: number
  readonly cursor?: string
  readonly name?: string
  readonly source?: string
  readonly label?: string
}

export interface BranchQuery {
  readonly tenant: string
  readonly limit: number
  readonly cursor?: string
  /** An id: what descends from it, at any depth. */
  readonly parent?: string
}

export interface ExportOptions {
  readonly memory?: boolean
  readonly signal?: AbortSignal
}

export interface ImportRequest {
  readonly name?: string
  readonly labels?: Readonly<Record<string, string>>
  /** Its memory may run with the rights of this node's runtime: for keys with the scope `admin`. */
  readonly trustMemory?: boolean
}
