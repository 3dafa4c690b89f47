import { mkdir } from 'node:fs/promises'
import type { BlobStore } from '../blob-store.ts'
import { openChanges } from '../changes.ts'
import { gate } from '../gate.ts'
import { keyedLock } from '../keyed-lock.ts'
import { leaseTable } from '../lease-table.ts'
import { openDisk, type Step } from './disk.ts'
import { freshBlobs } from './fresh.ts'
import { type FsContext, fsPaths, listBlobs, makeShards, removeBlob, touchBlob } from './fs-blobs.ts'
import { isErrno, onDisk } from './fs-error.ts'
import { fsLeaseKeeper, readLeases } from './fs-leases.ts'
import { fsNames } from './fs-names.ts'
import { getBlob, statBlob } from './get-blob.ts'
import { putBlob } from './put-blob.ts'
import { type Evictable, fsRoom } from './room.ts'
import { blobTally } from './tally.ts'

/** For small blobs, each open for less than a millisecond; streams have files of their own. */
const openFilesMax = 64

export interface FsStoreOptions {
  /** Made where it is missing. One process at a time may have a store there. */
  readonly directory: string
  /** What blobs may take. When it is reached, the least recently used that `evictable` gives free are removed; then `store_full`. */
  readonly maxBytes?: number | undefined
  /** Whether another store has it, on stable storage. Missing: nothing is evicted. */
  readonly evictable?: Evictable | undefined
  /** For the expiry of leases: milliseconds since 1970. */
  readonly now?: () => number
  readonly step?: Step
  /** False: for a folder that is removed, whatever happens, before another process would read it. Default true. */
  readonly durable?: boolean | undefined
}

/**
 * Blobs as files: `docs/storage.md` has the layout, and what is done in which order. Opening removes what a killed process
 * left; on a disk that cannot be written everything can be read.
 */
export const fsStore = async (options: FsStoreOptions): Promise<BlobStore> => {
  const { directory, now = Date.now, step = () => undefined, durable } = options
  const paths = fsPaths(directory)
  const disk = await onDisk(async () => {
    for (const path of [directory, paths.blobs, paths.names, paths.leases, paths.quarantine, paths.tmp])
      await mkdir(path, { recursive: true, mode: 0o700 }).catch((cause) => {
        // It may be there, on a disk that is read-only now.
        if (!isErrno(cause, 'EROFS')) throw cause
      })
    const opened = await openDisk(paths.tmp, step, durable)
    await makeShards(paths, opened, directory)
    return opened
  })
  const keeper = fsLeaseKeeper(paths.leases, disk)
  const inherited = await onDisk(() => readLeases(paths.leases, now()))
  const lock = keyedLock()
  const fresh = freshBlobs()
  const leases = leaseTable({
    store: 'fs',
    now,
    keeper,
    inherited,
    touch: (hash) => lock(hash, () => onDisk(() => touchBlob(context, hash, 'leased'))),
  })
  const { maxBytes, evictable } = options
  const room = await fsRoom({ maxBytes, evictable, paths, context: () => context })
  const tally = blobTally(paths, { eager: durable !== false })
  const context: FsContext = { paths, disk, lock, fresh, leases, room, tally, opening: gate(openFilesMax) }
  const names = fsNames(paths.names, paths.quarantine, disk, lock)

  const changes = openChanges(`in ${directory}`)
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    closing ??= (async () => {
      const ended = changes.end()
      leases.close()
      await ended
      await tally.close()
      await keeper.close()
      await disk.close()
    })()
    return closing
  }

  return {
    name: 'fs',
    put: (source, putOptions = {}) => changes.run(() => putBlob(context, source, putOptions)),
    get: (hash, getOptions = {}) => getBlob(context, hash, getOptions),
    stat: (hash) => statBlob(context, hash),
    list: (listOptions = {}) => listBlobs(context, listOptions),
    remove: (hash, { idleSinceMs } = {}) =>
      changes.run(() => lock(hash, () => onDisk(() => removeBlob(context, hash, idleSinceMs)))),
    names: {
      ...names,
      set: (name, value, setOptions) => changes.run(() => names.set(name, value, setOptions)),
      remove: (name, removeOptions) => changes.run(() => names.remove(name, removeOptions)),
    },
    leases,
    settled: async () => undefined,
    stats: async ({ signal } = {}) => ({
      ...(await tally.totals(signal)),
      maxBytes: maxBytes ?? null,
      pendingUploads: 0,
      pendingBytes: 0,
    }),
    close,
    [Symbol.asyncDispose]: close,
  }
}
