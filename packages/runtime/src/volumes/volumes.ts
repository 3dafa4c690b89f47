import type { CacheName } from '@bramble/protocol'
import type { SandboxMount } from '../runtime.ts'

/**
 * Named volumes and dependency caches of one node. Tenants are told apart here: a name is one of its tenant, and no mount
 * of one tenant ever holds what another wrote.
 *
 * A volume is a directory with a quota, mounted read-write by any number of sandboxes of its tenant at once.
 *
 * A cache is a series of immutable generations. A sandbox sees the newest when it starts, and below it the seeded cache that
 * the node's admin made for all; what it writes goes to a layer of its own. When it ends (or on `promote`), the new files
 * that pass the integrity check of their tool (content addressed names, checksums beside them) become part of the next
 * generation of its own tenant; what is in a generation is never changed.
 */
export interface Volumes {
  create(tenant: string, name: string, options: { sizeMb: number }): Promise<void>
  /** Rejects with `conflict` while a sandbox has it mounted. */
  remove(tenant: string, name: string): Promise<void>
  usedBytes(tenant: string, name: string): Promise<number>
  list(tenant: string): Promise<readonly { name: string; sizeMb: number; kind: 'volume' | 'cache' }[]>
  /** What to mount for a volume; rejects with `not_found`. */
  volumeMount(tenant: string, name: string, path: string, readOnly: boolean): Promise<SandboxMount>
  /** What to mount for a tool's cache, where that tool looks for it, of a user with that home. */
  cacheMounts(tenant: string, cache: CacheName, home: string): Promise<SandboxMount[]>
  /** Takes what the sandbox added to its caches into its tenant's next generation. Returns how many files. */
  promote(tenant: string, layer: string): Promise<number>
}
