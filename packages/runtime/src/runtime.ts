import type { Isolation, NetworkPolicy, RuntimeChoice, SandboxId } from '@bramble/protocol'
import type { Agent } from './agent/agent.ts'
import type { LocalImage } from './images/image-store.ts'
import type { Sealed, SealStore } from './seals/seals.ts'

/**
 * A runtime makes boxes; the agent in the box does everything else.
 *
 * Lifecycle. `probe` says whether this host can run the driver at all, and what it can do. `prepare` readies an image
 * (idempotent; concurrent calls for one digest share the work). `create` makes a sandbox, starts it, and returns when
 * the agent inside has said hello: there is no half-made state to see. A sandbox lives until `destroy`, or until it
 * ends by itself (its agent died, or the kernel killed it): `ended` tells. `destroy` returns when every process of the
 * sandbox is gone and everything the host held for it (mounts, cgroups, namespaces, files) is released; calling it twice,
 * or after the sandbox ended by itself, is safe. `reap` at start removes what an earlier process of the same data
 * directory left behind, whatever state it was left in.
 *
 * Kept sandboxes. A sandbox with `keep` outlives the process that made it: when that closes, or is killed, the sandbox goes
 * on, and the next process of the same data directory takes it over by `attach`. Its files are in a writable layer with a
 * name, which stays when the sandbox ends (`destroy`, or by itself, or with the host) until `layers.remove`; a new sandbox
 * on the same layer finds them. All else (sandboxes without `keep`) is gone with its process.
 *
 * Concurrency. All methods may be called at once for different sandboxes. `close` destroys every sandbox still alive
 * that is not kept, and lets go of those that are.
 *
 * Abort. An aborted `create` rejects with the signal's reason, and leaves nothing behind: what was made is destroyed.
 *
 * Trust. The sandbox's content, its agent included, is hostile. Nothing above this interface may assume a container, a
 * pid on the host, or a path into the sandbox.
 *
 * Errors are `BrambleError`s: `sandbox_failed` (with the runtime's own words in `detail`), `unsupported`, `no_isolation`.
 */
export interface Runtime extends AsyncDisposable {
  /** The driver: `oci`, `docker`, `fake`, `process`, `auto`. For people and metrics; code asks `capabilities`. */
  readonly name: string
  readonly capabilities: Capabilities
  /** Readies `image` for `create`: unpacks, converts or loads it, once per digest. */
  prepare(image: LocalImage, options?: Abortable): Promise<void>
  create(config: SandboxConfig, options?: Abortable): Promise<Sandbox>
  /**
   * Takes over a kept sandbox that an earlier process made, or one whose agent's connection was lost, with the configuration
   * it was made with. One that was paused is paused. Rejects with `not_found`, and `conflict` while it is attached to.
   */
  attach(config: SandboxConfig, options?: Abortable): Promise<Sandbox>
  /** Sandboxes of this runtime on the host that belong to this data directory, a crashed node's included. */
  list(): Promise<SandboxId[]>
  /** Removes what `list` shows and this process neither made nor attached to, but for `keep`. Returns how many. */
  reap(keep?: ReadonlySet<SandboxId>): Promise<number>
  /** The writable layers of kept sandboxes, whether one runs on them or not. */
  readonly layers: Layers
  /** What sandboxes share; there where `capabilities.volumes` says so. */
  readonly volumes?: VolumeStore
  /** States of sandboxes that this host keeps; there where `capabilities.seals` says so. */
  readonly seals?: SealStore
  /** Forgets an image that `prepare` readied. */
  forget(imageDigest: string): Promise<void>
  close(): Promise<void>
}

export interface Layers {
  list(): Promise<string[]>
  /** Bytes in it. */
  usedBytes(layer: string): Promise<number>
  /** One that is not there is removed already. Rejects with `conflict` while a sandbox runs on it. */
  remove(layer: string): Promise<void>
}

/**
 * What sandboxes of a runtime share, kept until it is removed. Names are of a-z, 0-9 and _, at most 63 characters, and mean
 * nothing here. `volume`: a directory with a quota. `generation`: of a dependency cache, filled by the caller once, and never
 * changed after it was mounted. `upper`: what a sandbox wrote to its caches, by the name of its layer or else its id; in it
 * `<cache>/upper`, as overlayfs keeps it.
 */
export interface VolumeStore {
  /** Makes it, or sets the size of the one that is there. */
  create(name: string, sizeMb: number): Promise<void>
  /** Makes a generation: a copy of `before` that shares its bytes, or an empty one. */
  nextGeneration(name: string, before?: string): Promise<void>
  /** One that is not there is removed already. Rejects with `conflict` while a sandbox has it mounted. */
  remove(kind: VolumeKind, name: string): Promise<void>
  list(kind: VolumeKind): Promise<string[]>
  usedBytes(kind: VolumeKind, name: string): Promise<number>
  /** Where it lies for this process. What is in it was written by sandboxes: links in it are not to be followed. */
  directory(kind: VolumeKind, name: string): Promise<string>
}

export type VolumeKind = 'volume' | 'generation' | 'upper'

export interface Abortable {
  signal?: AbortSignal | undefined
}

/** What a driver found by trying, on this host. Callers branch on these, never on a name. */
export interface Capabilities {
  readonly isolation: Isolation | 'none'
  /** Limits that are enforced, not merely accepted. */
  readonly limits: { readonly cpu: boolean; readonly memory: boolean; readonly pids: boolean; readonly disk: boolean }
  readonly userNamespace: boolean
  readonly seccomp: boolean
  readonly pause: boolean
  /** States of sandboxes: `Sandbox.seal`, `seals`, `from`. */
  readonly seals: boolean
  /** Seals may have the memory of the processes. */
  readonly checkpoint: boolean
  /** Kept sandboxes: `keep`, `attach`, `layers`. */
  readonly keep: boolean
  readonly network: readonly ('none' | 'egress' | 'allow')[]
  readonly volumes: boolean
}

/** What `probe` found: a runtime ready for use, or why there is none and what to do. */
export type Probe<T> = { available: true; runtime: T } | { available: false; reason: string; hint: string }

export interface SandboxConfig {
  readonly id: SandboxId
  readonly image: LocalImage
  readonly resources: SandboxResources
  readonly isolation?: Isolation | undefined
  /** Which driver, where the caller insists; a single driver ignores it. */
  readonly runtime?: RuntimeChoice | undefined
  /** The same in every fresh sandbox by default, so that equal commands have equal results. */
  readonly hostname?: string | undefined
  /** It outlives this process; `layer` names its writable layer, which is made when it is not there. */
  readonly keep?: { readonly layer: string } | undefined
  /** Default `none`. */
  readonly network?: NetworkPolicy | undefined
  readonly mounts?: readonly SandboxMount[] | undefined
  /**
   * The seal it continues: its files, and with `memory` its processes, which find themselves in a sandbox with this id, host
   * name and network. The image must be the one of the seal. Not together with a `keep.layer` that is there already.
   */
  readonly from?: { readonly seal: string; readonly memory: boolean } | undefined
}

/**
 * A part of the `VolumeStore` in the sandbox, with its ids mapped. `volume`: shared, writable unless `readOnly`. `cache`: the
 * sandbox sees the generations, the first above the others, and writes into a layer of its own (`upper`).
 */
export type SandboxMount =
  | { readonly kind: 'volume'; readonly volume: string; readonly path: string; readonly readOnly: boolean }
  | { readonly kind: 'cache'; readonly name: string; readonly generations: readonly string[]; readonly path: string }

/** Hard limits of one sandbox; the agent counts toward `pids` and memory. */
export interface SandboxResources {
  readonly cpus: number
  readonly memoryMb: number
  readonly diskMb: number
  readonly pids: number
}

export interface Sandbox extends AsyncDisposable {
  readonly id: SandboxId
  readonly runtime: string
  readonly config: SandboxConfig
  /** The host's end of the agent's stream, connected. */
  readonly agent: Agent
  /** Resolves once, when the sandbox is gone: by `destroy`, or by itself. */
  readonly ended: Promise<SandboxEnd>
  /** What the kernel accounted so far. Cheap enough to call once per command. */
  stats(): Promise<SandboxStats>
  /** Stops its processes where they are: they use no processor time until `resume`. Idempotent. Rejects with `unsupported`. */
  pause(): Promise<void>
  resume(): Promise<void>
  readonly paused: boolean
  /**
   * The addresses of a host name, by the network policy of the sandbox, which may be reached from then on. Rejects with
   * `port_closed`. Absent where the sandbox has no network to reach anything by.
   */
  resolve?(name: string): Promise<string[]>
  /**
   * Keeps the present state as a seal; the sandbox goes on, and so does all that goes over the agent's connection, which stands
   * still for as long as memory is saved. Rejects with `checkpoint_refused`, and the sandbox goes on, where its memory cannot be
   * saved; with `unsupported`.
   */
  seal?(options: { name: string; memory: boolean; signal?: AbortSignal | undefined }): Promise<Sealed>
  /** The sandbox ends. The layer of a kept one stays. */
  destroy(): Promise<void>
}

/** `oomKills`: how many processes the kernel had killed for want of memory by the end, where the runtime can tell. */
export type SandboxEnd = { by: 'destroy' } | { by: 'itself'; detail: string; oomKills: number }

export interface SandboxStats {
  readonly cpuMs: number
  readonly memoryBytes: number
  readonly peakMemoryBytes: number
  /** Processes the kernel killed for want of memory, since the sandbox began. */
  readonly oomKills: number
  readonly diskBytes: number
  /** Over the sandbox's network, since it began; 0 without one. */
  readonly egressBytes: number
  readonly ingressBytes: number
  readonly processes: number
}
