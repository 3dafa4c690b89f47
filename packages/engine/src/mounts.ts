import type { CacheName, VolumeMount } from '@bramble/protocol'
import type { SandboxMount, Volumes } from '@bramble/runtime'
import { homeOf } from './command.ts'

export interface MountWishes {
  readonly tenant: string
  readonly volumes: readonly VolumeMount[]
  readonly caches: readonly CacheName[]
  /** Whose caches they are: tools look below the home directory. */
  readonly user: string
}

/** What to mount for a spec. Rejects with `not_found` for a volume that the tenant does not have. */
export const mountsFor = async (volumes: Volumes | undefined, wishes: MountWishes): Promise<SandboxMount[]> => {
  if (volumes === undefined) return []
  const { tenant, user } = wishes
  const mounts: SandboxMount[] = []
  for (const { name, path, readOnly } of wishes.volumes)
    mounts.push(await volumes.volumeMount(tenant, name, path, readOnly))
  const home = homeOf(user.split(':', 1)[0] ?? user)
  for (const cache of wishes.caches) mounts.push(...(await volumes.cacheMounts(tenant, cache, home)))
  return mounts
}
