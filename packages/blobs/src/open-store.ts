import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Abortable, BlobStore } from './blob-store.ts'
import { fsStore } from './fs/fs-store.ts'
import type { S3Event } from './s3/s3-connection.ts'
import { parseObjectStoreUrl } from './s3/s3-url.ts'
import type { TierEvent } from './tiered/context.ts'
import { type TieredStore, tieredStore } from './tiered/tiered-store.ts'

/** What happens between the store of a node and the object store behind it. For metrics. */
export type StoreEvent = S3Event | TierEvent

/** The part of a logger that a store uses. */
export interface StoreLog {
  info(data: object, message: string): void
  warn(data: object, message: string): void
  error(data: object, message: string): void
}

export interface OpenStoreOptions {
  /** Where blobs are on this host. One process at a time may have a store there. */
  readonly directory: string
  /** `s3://bucket/prefix?endpoint=…`: see `parseObjectStoreUrl`. Absent: blobs are on this host alone. */
  readonly objectStoreUrl?: string | undefined
  /** What the blobs may take here. Those that the object store has make room for others. Absent: no bound. */
  readonly maxBytes?: number | undefined
  readonly log?: StoreLog | undefined
  readonly observe?: ((event: StoreEvent) => void) | undefined
}

/**
 * The store of a node: files, and behind them the object store where there is one. It opens, and keeps what is put, whether the
 * object store answers or not. Throws `invalid_request` for a URL that is none.
 */
export const openStore = async (options: OpenStoreOptions): Promise<BlobStore> => {
  const { directory, objectStoreUrl, maxBytes, log, observe = () => undefined } = options
  if (objectStoreUrl === undefined) return fsStore({ directory, maxBytes })
  const location = parseObjectStoreUrl(objectStoreUrl)
  // The client of S3 is large, and most nodes have no object store.
  const { s3Store } = await import('./s3/s3-store.ts')
  const opened: { tiered?: TieredStore } = {}
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const local = await fsStore({
    directory,
    maxBytes,
    evictable: async (hash) => (await opened.tiered?.isEvictable(hash)) ?? false,
  })
  const shared = s3Store({ location, observe })
  try {
    const tell = (event: TierEvent): void => {
      observe(event)
      if (log) logEvent(log, location.label, event)
    }
    opened.tiered = await tieredStore({ local, shared, directory: join(directory, 'tier'), observe: tell })
    return opened.tiered
  } catch (thrown) {
    await local.close()
    await shared.close()
    throw thrown
  }
}

const logEvent = (log: StoreLog, store: string, event: TierEvent): void => {
  switch (event.kind) {
    case 'uploaded':
    case 'fetched':
      return
    case 'available':
      log.info({ store }, 'the object store answers')
      return
    case 'unavailable':
      log.warn({ store, reason: event.reason }, 'the object store does not answer; what is put waits here')
      return
    case 'healed':
      log.warn({ store, what: event.what, tier: event.tier }, 'a damaged copy was replaced from the other tier')
      return
    case 'failed':
      if (!event.all) log.warn({ store, what: event.what, reason: event.reason }, 'an upload failed; it is tried again')
      return
    case 'lost':
      log.error({ store, what: event.what, reason: event.reason }, 'no good copy is left')
      return
    default:
      event satisfies never
  }
}

/** Whether the object store answers, and lets this node write: rejects with `store_unavailable` and the reason. Gives its label. */
export const checkObjectStore = async (url: string, options: Abortable = {}): Promise<string> => {
  const { s3Store } = await import('./s3/s3-store.ts')
  await using store = s3Store({ location: parseObjectStoreUrl(url) })
  await store.check(options)
  return store.label
}
