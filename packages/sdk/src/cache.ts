import { type CacheStats, cacheInvalidationAnswerSchema, cacheStatsSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import type { Transport } from './transport.ts'

/** More than one: all of them hold. None: everything of the tenant. */
export interface CacheSelection {
  /** An input hash, as `result.inputHash` has it. */
  readonly key?: string | undefined
  /** A name or digest. */
  readonly image?: string | undefined
  /** `name=value`, or `name` for any value. */
  readonly label?: string | undefined
}

/** Results of mode `cached`. */
export interface Cache {
  stats(options?: CallOptions): Promise<CacheStats>
  /** Forgets results, and resolves with how many this node knew. */
  clear(selection?: CacheSelection, options?: CallOptions): Promise<number>
}

const PATH = '/api/v1/cache'

export const cache = (transport: Transport): Cache => ({
  stats: (options = {}) => transport.json({ method: 'GET', path: PATH, ...options }, cacheStatsSchema),
  clear: async ({ key, image, label } = {}, options = {}) => {
    const isAll = key === undefined && image === undefined && label === undefined
    const body = isAll ? { all: true } : { key, image, label }
    const request = { method: 'DELETE', path: PATH, body, ...options } as const
    return (await transport.json(request, cacheInvalidationAnswerSchema)).forgotten
  },
})
