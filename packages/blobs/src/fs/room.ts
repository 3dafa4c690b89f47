import type { BigIntStats } from 'node:fs'
import { type FileHandle, stat, unlink } from 'node:fs/promises'
import { type BlobHash, BrambleError } from '@bramble/protocol'
import { type FsContext, type FsPaths, listBlobs, notThere, pathOf } from './fs-blobs.ts'
import { onDisk } from './fs-error.ts'
import { sizesOf } from './tally.ts'

/** Whether the blob may go from here, as it can be had from elsewhere. */
export type Evictable = (hash: BlobHash) => boolean | Promise<boolean>

/** What blobs take of the room that they have. */
export interface Room {
  /** Before a blob gets its name. Makes room where there is none, or rejects with `store_full`. */
  take(storedBytes: number): Promise<void>
  freed(storedBytes: number): void
  /** Moves it to the end of those that may go. */
  wasRead(handle: FileHandle, stats: BigIntStats): Promise<void>
}

/** After evicting, so much of the room is free: it is not looked for at every put. */
const freeShare = 0.1
/** How exactly the order of reading is known. */
const readGrainMs = 60_000

const unlimited: Room = { take: async () => undefined, freed: () => undefined, wasRead: async () => undefined }

export interface RoomOptions {
  readonly maxBytes: number | undefined
  readonly evictable: Evictable | undefined
  readonly paths: FsPaths
  /** Asked for when something is evicted, and not before. */
  readonly context: () => FsContext
}

export const fsRoom = async (options: RoomOptions): Promise<Room> => {
  const { maxBytes, evictable } = options
  if (maxBytes === undefined) return unlimited
  let used = 0
  for await (const { storedBytes } of listBlobs(options, {})) used += storedBytes
  let evicting: Promise<void> | undefined

  /** Least recently used first: read, put or held, whichever was last. */
  const evict = async (wantedBytes: number): Promise<void> => {
    if (!evictable) return
    const context = options.context()
    const blobs: { hash: BlobHash; usedMs: number }[] = []
    for await (const { hash, usedMs } of listBlobs(options, {})) blobs.push({ hash, usedMs })
    const target = Math.max(0, maxBytes * (1 - freeShare) - wantedBytes)
    for (const { hash, usedMs } of blobs.sort((left, right) => left.usedMs - right.usedMs)) {
      if (used <= target) return
      if (context.leases.isHeld(hash) || !(await evictable(hash))) continue
      used -= await context.lock(hash, () => onDisk(() => removeUnused(context, hash, usedMs)))
    }
  }

  return {
    take: async (storedBytes) => {
      if (used + storedBytes > maxBytes) {
        evicting ??= evict(storedBytes).finally(() => {
          evicting = undefined
        })
        await evicting
        if (used + storedBytes > maxBytes)
          throw new BrambleError('store_full', {
            detail: `fs: a blob takes ${storedBytes} bytes, and ${Math.max(0, maxBytes - used)} of ${maxBytes} are left`,
          })
      }
      used += storedBytes
    },
    freed: (storedBytes) => {
      used -= storedBytes
    },
    wasRead: async (handle, { atimeMs, mtimeMs }) => {
      const now = Date.now()
      if (now - Math.max(Number(atimeMs), Number(mtimeMs)) < readGrainMs) return
      // Its order among those that may go is not worth failing for.
      await handle.utimes(now / 1000, Number(mtimeMs) / 1000).catch(() => undefined)
    },
  }
}

/** Gives the bytes that it freed: none, where somebody used it since it was chosen. */
const removeUnused = async (
  { paths, disk, leases, tally }: FsContext,
  hash: BlobHash,
  usedMs: number,
): Promise<number> => {
  const path = pathOf(paths, hash)
  const stats = await stat(path).catch(notThere)
  if (!stats || Math.max(stats.mtimeMs, stats.atimeMs) > usedMs || leases.isHeld(hash)) return 0
  const sizes = await sizesOf(paths, hash)
  await disk.step('evict')
  using change = tally.begin(hash)
  await unlink(path)
  if (sizes) change.done('removed', sizes)
  return stats.size
}
