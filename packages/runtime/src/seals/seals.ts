import type { MemoryRequirements } from '@bramble/protocol'
import type { Abortable } from '../runtime.ts'

/**
 * Seals: states of sandboxes that this host keeps, which never change. `Sandbox.seal` makes one of a running sandbox in the
 * time of a file-system snapshot, whatever was written, and with memory in the time that its processes' memory takes;
 * `Runtime.create` with `from` continues one, any number of times at once. Making and continuing copy no file.
 *
 * A seal has the sandbox's own writable layer (what is other than its image) and, where it was asked for and the runtime
 * can, the memory of its processes. It stays, over restarts of the node and of the host, until `remove`; what was made from it
 * does not need it any more. Names are of a-z, 0-9 and _, at most 63 characters, and mean nothing here.
 *
 * Durability. A seal is whole or not there: what a crash left of one is removed by the next `reap`. `sync` says that it is on
 * stable storage; until then a power failure may take it.
 *
 * Trust. The files were written by the sandbox. A memory image is made by this runtime, and is run with the rights of the host:
 * `write` takes one only from whoever vouches for it (`SealSource.memory`).
 *
 * Errors: `not_found`, `conflict` (the name is taken), `checkpoint_refused` (what holds it up; the sandbox goes on),
 * `snapshot_incompatible` (the reason), `unsupported`, `store_full`.
 */
/** `agents`: those that it can restore the processes of; absent: it does not matter. */
export type MemoryOffers = MemoryRequirements & { readonly agents?: readonly string[] }

export interface SealStore {
  /** What a memory image that is made here requires; there where `capabilities.checkpoint` says so. */
  readonly offers?: MemoryOffers
  list(): Promise<SealInfo[]>
  /** One that is not there is removed already. Sandboxes that continued from it are not touched. */
  remove(name: string): Promise<void>
  /** Bytes of files in it, and of memory. */
  usedBytes(name: string): Promise<number>
  /** Resolves when the seal is on stable storage. */
  sync(name: string): Promise<void>
  /** What the layer says of every path, in the order of the paths' bytes: a directory before what is in it. */
  entries(name: string, options?: Abortable): AsyncIterable<LayerEntry>
  /** The bytes of one regular file of the layer. Rejects with `file_not_found`. */
  read(name: string, path: BytePath, options?: Abortable): AsyncIterable<Uint8Array>
  /** Undefined where it has none. */
  memory(name: string): Promise<SealedMemory | undefined>
  readMemory(name: string, file: string, options?: Abortable): AsyncIterable<Uint8Array>
  /** Makes a seal of what is known by other means: a snapshot of another node, a merge. */
  write(name: string, source: SealSource, options?: Abortable): Promise<void>
}

export interface SealInfo {
  readonly name: string
  readonly memory: boolean
}

/**
 * Bytes of a path relative to the root, one byte a character (`latin1`), so that equal strings are equal paths, and sorting by
 * code units sorts bytes. `Buffer.from(path, 'latin1')` has the bytes.
 */
export type BytePath = string

interface Attributes {
  readonly mode: number
  /** As the sandbox sees them. */
  readonly uid: number
  readonly gid: number
  /** Nanoseconds since 1970. */
  readonly modifiedNs: bigint
  /** Names without those of overlayfs itself. */
  readonly xattrs?: Readonly<Record<string, Uint8Array>>
}

/** `version`: equal for the same path of two seals means that the bytes are equal, without reading them; absent: nobody knows. */
export type LayerEntry = { readonly path: BytePath } & (
  | ({ readonly type: 'file'; readonly sizeBytes: number; readonly version?: string } & Attributes)
  /** Another name of the file at `target`, which came before. */
  | { readonly type: 'link'; readonly target: BytePath }
  /** `opaque`: what the image has below it is hidden. */
  | ({ readonly type: 'directory'; readonly opaque: boolean } & Attributes)
  | ({ readonly type: 'symlink'; readonly target: BytePath } & Attributes)
  | ({ readonly type: 'fifo' } & Attributes)
  /** The image's file or directory at this path is hidden. */
  | { readonly type: 'deleted' }
)

export interface SealedMemory {
  readonly requires: MemoryRequirements
  readonly sizeBytes: number
  readonly files: readonly { readonly name: string; readonly sizeBytes: number }[]
  readonly processes: readonly { readonly pid: number; readonly command: string }[]
  readonly ports: readonly number[]
}

export interface SealSource {
  /** In the order of their paths, parents first; a path that leaves the root, or comes twice, is refused with `import_refused`. */
  readonly entries: AsyncIterable<LayerEntry> | Iterable<LayerEntry>
  /** Called for one `file` entry after another, in their order; exactly `sizeBytes` bytes are taken. */
  readonly read: (path: BytePath) => AsyncIterable<Uint8Array>
  readonly diskBytes: number
  /** Only of an origin that may run with the rights of the host. */
  readonly memory?: {
    readonly info: SealedMemory
    readonly read: (file: string) => AsyncIterable<Uint8Array>
  }
}

/** What came of `Sandbox.seal`. */
export interface Sealed {
  readonly name: string
  readonly memory: boolean
  /** How long no process of the sandbox ran. */
  readonly frozenMs: number
}
