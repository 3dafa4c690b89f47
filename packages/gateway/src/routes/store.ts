import type { BlobStore } from '@bramble/blobs'
import { json } from '@bramble/http'
import { type StoreStats, storeCollectionSchema, storeCollectQuerySchema, storeStatsSchema } from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'store'
const path = '/api/v1/store'

const show = route({
  method: 'GET',
  path,
  tag,
  summary: 'What the store of blobs holds, and what waits to go to its lower tier',
  scope: 'admin',
  answer: { status: 200, description: 'Its state', schema: storeStatsSchema },
  errors: ['store_unavailable'],
  handle: async ({ signal }, { engine }) => json(200, await statsOf(engine.blobs, signal)),
})

const collect = route({
  method: 'POST',
  path: `${path}/collect`,
  tag,
  summary: 'Remove blobs and states of sandboxes that nothing needs any more',
  description:
    'It runs by itself now and then. What was put within `graceMs` stays, whoever needs it: an hour where it is not said, at least a minute.',
  scope: 'admin',
  query: storeCollectQuerySchema,
  answer: { status: 200, description: 'What was removed', schema: storeCollectionSchema },
  errors: ['conflict', 'store_unavailable', 'store_read_only'],
  handle: async ({ signal, query: { graceMs } }, { engine }) =>
    json(200, await engine.snapshots.collect({ signal, ...(graceMs !== undefined && { graceMs }) })),
})

const statsOf = async (blobs: BlobStore, signal: AbortSignal): Promise<StoreStats> => {
  if (blobs.stats) return blobs.stats({ signal })
  const stats = { blobs: 0, storedBytes: 0, maxBytes: null, pendingUploads: 0, pendingBytes: 0 }
  for await (const { storedBytes } of blobs.list({ signal })) {
    stats.blobs++
    stats.storedBytes += storedBytes
  }
  return stats
}

export const storeRoutes = [show, collect]
