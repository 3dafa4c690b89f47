import type { CacheName, Labels, Volume } from '@bramble/protocol'
import type { SandboxMount } from '@bramble/runtime'

/**
 * Named volumes and dependency caches of one node. Tenants are told apart here: a name is one of its tenant, and no mount
 * of one tenant ever holds what another wrote.
 *
 * A volume is a directory with a quota, mounted by any number of sandboxes of its tenant at once.
 *
 * A cache is a series of immutable generations. A sandbox sees the newest when it starts, and below it the seed that the
 * node's admin made for all; what it writes goes to a layer of its own. When the sandbox has ended, the new files that pass
 * the check of their tool (`cache-rules.ts`) are added to the next generation of its own tenant. Nothing in a generation is
 * ever replaced by something else: what one sandbox read, the next one reads.
 *
 * Errors: `not_found`, `conflict` (a sandbox has it mounted), `unsupported`, `invalid_request`.
 */
export interface Volumes extends AsyncDisposable {
  /** Makes it, or sets size and labels of the one that is there. */
  put(tenant: string, name: string, options: { sizeMb: number; labels: Labels }): Promise<Volume>
  get(tenant: string, name: string): Promise<Volume>
  /** Volumes by name, then caches that hold something. */
  list(tenant: string): Promise<Volume[]>
  remove(tenant: string, name: string): Promise<void>
  /** Forgets what a cache holds; sandboxes that run go on with what they see. */
  clearCache(tenant: string, cache: CacheName): Promise<void>
  /** What the tenant's cache holds now becomes the seed that every tenant sees below its own, read-only. */
  seed(tenant: string, cache: CacheName): Promise<void>
  volumeMount(tenant: string, name: string, path: string, readOnly: boolean): Promise<SandboxMount>
  /** What to mount for a tool's cache, where that tool looks for it, with that environment and home directory. */
  cacheMount(tenant: string, cache: CacheName, place: CachePlace): Promise<SandboxMount>
  /**
   * Takes what an ended sandbox added to its caches into its tenant's next generations. `owner`: its layer, or else its id;
   * `keep`: its own layers stay for its next start. Returns how many files were added.
   */
  promote(tenant: string, owner: string, options?: { keep?: boolean }): Promise<number>
  /** The newest generation of every tenant's caches. It stays where it lies until the next one is there. */
  generations(): Promise<Generation[]>
  /** Adds to the tenant's cache what a generation of another node has, and passes the check. Returns how many files were added. */
  adopt(tenant: string, cache: CacheName, from: string): Promise<number>
  /** Removes a sandbox's own layers of its caches. */
  discard(owner: string): Promise<void>
  close(): Promise<void>
}

export interface Generation {
  readonly tenant: string
  readonly cache: CacheName
  readonly name: string
  readonly directory: string
  readonly bytes: number
}

export interface CachePlace {
  readonly home: string
  readonly env: Readonly<Record<string, string>>
}
