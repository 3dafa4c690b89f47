import type { CacheName, VolumeMount } from '@bramble/protocol'
import type { LocalImage, SandboxMount } from '@bramble/runtime'
import { environmentOf } from './command.ts'
import type { Volumes } from './volumes/volumes.ts'

export interface MountWishes {
  readonly tenant: string
  readonly volumes: readonly VolumeMount[]
  readonly caches: readonly CacheName[]
  /** Whose caches they are: tools look below the home directory, or where the environment says. */
  readonly user: string
  readonly env: Readonly<Record<string, string>>
  readonly image: LocalImage
}

/** What to mount for a spec. Rejects with `not_found` for a volume that the tenant does not have. */
export const mountsFor = async (volumes: Volumes | undefined, wishes: MountWishes): Promise<SandboxMount[]> => {
  if (volumes === undefined) return []
  const { tenant, user, image } = wishes
  const mounts: SandboxMount[] = []
  for (const { name, path, readOnly } of wishes.volumes)
    mounts.push(await volumes.volumeMount(tenant, name, path, readOnly))
  const env = { ...environmentOf(user, image), ...wishes.env }
  for (const cache of new Set(wishes.caches))
    mounts.push(await volumes.cacheMount(tenant, cache, { env, home: env.HOME ?? '/root' }))
  return mounts
}
