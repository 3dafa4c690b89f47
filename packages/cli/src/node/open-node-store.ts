import { join } from 'node:path'
import { type BlobStore, openStore, type StoreEvent, type StoreLog } from '@bramble/blobs'
import type { NodeConfig } from './node-config.ts'

const GB = 1_000_000_000

/** The store of a node: in its data directory, and in the object store where one is configured. */
export const openNodeStore = (
  { dataDirectory, objectStoreUrl, storeMaxGb }: NodeConfig,
  { log, observe }: { readonly log: StoreLog; readonly observe: ((event: StoreEvent) => void) | undefined },
): Promise<BlobStore> =>
  openStore({
    directory: join(dataDirectory, 'blobs'),
    objectStoreUrl,
    maxBytes: storeMaxGb === undefined ? undefined : Math.round(storeMaxGb * GB),
    log,
    observe,
  })
