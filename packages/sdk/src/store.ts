import { type StoreCollection, type StoreStats, storeCollectionSchema, storeStatsSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { SDK_LIMITS } from './limits.ts'
import type { Transport } from './transport.ts'

/** Where a node keeps snapshots and results. Needs a key with the scope `admin`. */
export interface Store {
  /** What it holds, and what waits to go to its lower tier. */
  status(options?: CallOptions): Promise<StoreStats>
  /** Removes what nothing needs any more, unless it was put within `graceMs` (default 1 h, at least a minute). */
  collect(options?: CallOptions & { readonly graceMs?: number | undefined }): Promise<StoreCollection>
}

const PATH = '/api/v1/store'

export const store = (transport: Transport): Store => ({
  status: (options = {}) => transport.json({ method: 'GET', path: PATH, ...options }, storeStatsSchema),
  collect: ({ graceMs, ...options } = {}) =>
    transport.json(
      {
        method: 'POST',
        path: `${PATH}/collect`,
        query: { graceMs },
        repeatable: true,
        requestTimeoutMs: SDK_LIMITS.snapshotTimeoutMs,
        ...options,
      },
      storeCollectionSchema,
    ),
})
