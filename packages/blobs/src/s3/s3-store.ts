import { randomUUID } from 'node:crypto'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import type { Abortable, BlobStore, Lease } from '../blob-store.ts'
import { openChanges } from '../changes.ts'
import { keyedLock } from '../keyed-lock.ts'
import { type LeaseTable, leaseTable } from '../lease-table.ts'
import {
  getObject,
  listObjects,
  putObject,
  removeObject,
  type S3Context,
  statObject,
  temporaryPrefix,
  youngObject,
} from './s3-blobs.ts'
import { openS3Connection, type S3Event, type S3Limits } from './s3-connection.ts'
import { readS3Leases, s3LeaseKeeper } from './s3-leases.ts'
import { abortUploads } from './s3-multipart.ts'
import { s3Names } from './s3-names.ts'
import { s3Objects } from './s3-objects.ts'
import type { ObjectStoreLocation } from './s3-url.ts'

export interface S3StoreOptions {
  /** Of `parseObjectStoreUrl`. */
  readonly location: ObjectStoreLocation
  readonly limits?: Partial<S3Limits>
  readonly observe?: (event: S3Event) => void
  /** Milliseconds since 1970. */
  readonly now?: () => number
  /** Called before each change on the server, with its name: a test kills the process there. */
  readonly step?: (what: string) => void | Promise<void>
}

export interface S3Store extends BlobStore {
  /** Bucket, prefix and endpoint, without secrets. */
  readonly label: string
  /** Resolves when the server answers and lets this store read and write; rejects with `store_unavailable` and the reason. */
  check(options?: Abortable): Promise<void>
  /** An id that was made with the first use of the bucket's prefix: the same for all that share it. */
  identity(options?: Abortable): Promise<string>
  /** Whether the blob is there, is not known to be damaged, and is not so old that it is to be put again. */
  isRecent(hash: BlobHash, options?: Abortable): Promise<boolean>
  /** Removes what killed processes left of uploads that began more than `leftoverMs` ago. */
  sweep(options?: Abortable): Promise<number>
}

const identityKey = 'store-id'
const identityBytesMax = 64
/** What is left of an upload is old then, whichever node made it: none takes a day. */
const leftoverMs = 24 * 3_600_000

/**
 * Blobs as objects of an S3-compatible server, in the same stored form as files. Nothing is asked of the server before it is
 * needed. Several nodes may use one prefix: a blob is whole or not there whoever writes it, and who collects leaves what is
 * young. `docs/storage.md` has the keys.
 */
export const s3Store = (options: S3StoreOptions): S3Store => {
  const { location, now = Date.now, step = () => undefined, limits, observe } = options
  const connection = openS3Connection({ location, limits, observe })
  const objects = s3Objects(connection)
  let table: Promise<LeaseTable> | undefined
  const openTable = async (): Promise<LeaseTable> => {
    const inherited = await readS3Leases(objects, now())
    const touch = async (hash: BlobHash): Promise<boolean> => (await statObject(context, hash, {})) !== undefined
    return leaseTable({ store: 's3', now, touch, keeper: s3LeaseKeeper(objects), inherited })
  }
  const leases = (): Promise<LeaseTable> => {
    const opening = table ?? openTable()
    table = opening
    opening.catch(() => {
      if (table === opening) table = undefined
    })
    return opening
  }
  const context: S3Context = { objects, leases, lock: keyedLock(), suspects: new Set(), now, step }

  let closing: Promise<void> | undefined
  const changes = openChanges(location.label)
  const close = (): Promise<void> => {
    closing ??= (async () => {
      await changes.end()
      const opened = await table?.catch(() => undefined)
      opened?.close()
      connection.close()
    })()
    return closing
  }
  const names = s3Names(objects)
  return {
    name: 's3',
    label: location.label,
    put: (source, putOptions = {}) => changes.run(() => putObject(context, source, putOptions)),
    get: (hash, getOptions = {}) => getObject(context, hash, getOptions),
    stat: (hash, statOptions = {}) => statObject(context, hash, statOptions),
    list: (listOptions = {}) => listObjects(context, listOptions),
    remove: (hash, removeOptions = {}) => changes.run(() => removeObject(context, hash, removeOptions)),
    names: {
      ...names,
      set: (name, value, setOptions) => changes.run(() => names.set(name, value, setOptions)),
      remove: (name, removeOptions) => changes.run(() => names.remove(name, removeOptions)),
    },
    leases: {
      acquire: async (leaseOptions): Promise<Lease> => changes.run(async () => (await leases()).acquire(leaseOptions)),
      held: async function* () {
        yield* (await leases()).held()
      },
    },
    settled: async () => undefined,
    check: async (checkOptions = {}) => {
      const key = `${temporaryPrefix}check`
      await objects.put(key, Buffer.from('bramble'), checkOptions)
      await objects.get(key, 64, checkOptions)
    },
    identity: async (identityOptions = {}) => {
      const read = async (): Promise<string | undefined> => {
        const object = await objects.get(identityKey, identityBytesMax, identityOptions)
        const text = object?.bytes.toString('latin1')
        return text !== undefined && /^[0-9a-f-]{36}$/.test(text) ? text : undefined
      }
      const present = await read()
      if (present !== undefined) return present
      await objects.create(identityKey, Buffer.from(randomUUID()), identityOptions)
      // Of two that made one at once, one is there; or the server knows no conditions, and the last one is.
      const made = await read()
      if (made === undefined)
        throw new BrambleError('store_unavailable', { detail: `s3 (${location.label}): ${identityKey} cannot be read` })
      return made
    },
    isRecent: async (hash, recentOptions = {}) => (await youngObject(context, hash, recentOptions)) !== undefined,
    sweep: async ({ signal } = {}) => {
      const beforeMs = now() - leftoverMs
      let removed = await abortUploads(objects, '', { beforeMs, signal })
      for await (const { key, modifiedMs } of objects.list(temporaryPrefix, { signal })) {
        if (modifiedMs >= beforeMs) continue
        await objects.remove(key, { signal })
        removed++
      }
      return removed
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
