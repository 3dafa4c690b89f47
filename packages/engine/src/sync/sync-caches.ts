import { toBrambleError } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'
import type { Log } from '../options.ts'
import { adoptCache, type CacheSharing, sharedCaches, shareGeneration } from './share-caches.ts'

/** A cache grows with every sandbox that downloads something; it is read whole to be shared. */
const SHARE_EVERY_MS = 10 * 60_000

export interface CacheSync {
  /** Puts what is new here into the store. Gives what is on its way to the shared tier. */
  share(options: Abortable): Promise<Promise<void>[]>
  /** Takes what is new elsewhere, within the budget. Gives how many bytes came. */
  take(budget: { readonly leftBytes: number }, options: Abortable): Promise<number>
}

/** Dependency caches of the nodes of one store: what sandboxes of a tenant downloaded on one of them, they find on all. */
export const cacheSync = (
  sharing: CacheSharing,
  { log, isIdle }: { readonly log: Log; readonly isIdle: () => boolean },
): CacheSync => {
  const sharedAtMs = new Map<string, number>()
  /** Generations of others that were taken, by node, tenant and cache. */
  const taken = new Map<string, string>()
  const failed = (cache: string, error: unknown, { signal }: Abortable): void => {
    const { code, detail } = toBrambleError(error)
    if (signal?.aborted || code === 'store_unavailable') throw error
    log.warn({ cache, detail }, 'a dependency cache could not be shared')
  }
  return {
    share: async (options) => {
      const uploads: Promise<void>[] = []
      for (const generation of await sharing.volumes.generations()) {
        const key = `${generation.tenant}/${generation.cache}`
        const lastMs = sharedAtMs.get(key) ?? Number.NEGATIVE_INFINITY
        if (!isIdle()) break
        if (performance.now() - lastMs < SHARE_EVERY_MS) continue
        try {
          const shared = await shareGeneration(sharing, generation, options)
          if (shared) uploads.push(shared.uploaded)
          sharedAtMs.set(key, performance.now())
        } catch (error) {
          sharedAtMs.set(key, performance.now())
          // It may have been followed by the next one, and removed, while it was read.
          failed(key, error, options)
        }
      }
      return uploads
    },
    take: async (budget, options) => {
      let cameBytes = 0
      for await (const shared of sharedCaches(sharing, options)) {
        const { tenant, cache, node, generation, bytes } = shared
        const key = `${node}/${tenant}/${cache}`
        if (!isIdle()) break
        if (taken.get(key) === generation || bytes > budget.leftBytes - cameBytes) continue
        try {
          const files = await adoptCache(sharing, shared, options)
          cameBytes += bytes
          taken.set(key, generation)
          if (files > 0) log.info({ tenant, cache, files }, 'a dependency cache has what another node downloaded')
        } catch (error) {
          taken.set(key, generation)
          failed(key, error, options)
        }
      }
      return cameBytes
    },
  }
}
