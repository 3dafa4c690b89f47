import { mkdir, open, readdir, rename, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { type BlobHash, BrambleError, blobHashSchema } from '@bramble/protocol'
import type { Abortable, ListedBlob } from '../blob-store.ts'
import type { Gate } from '../gate.ts'
import type { KeyedLock } from '../keyed-lock.ts'
import type { LeaseTable } from '../lease-table.ts'
import type { Disk } from './disk.ts'
import type { Fresh } from './fresh.ts'
import { isErrno, onDisk } from './fs-error.ts'
import type { Room } from './room.ts'
import { sizesOf, type Tally } from './tally.ts'

export interface FsPaths {
  readonly blobs: string
  readonly names: string
  readonly leases: string
  readonly quarantine: string
  readonly tmp: string
}

/** What the operations of one store share. */
export interface FsContext {
  readonly paths: FsPaths
  readonly disk: Disk
  /** By hash: what makes, touches and removes one blob. */
  readonly lock: KeyedLock
  readonly fresh: Fresh
  readonly leases: LeaseTable
  readonly room: Room
  readonly tally: Tally
  /** Bounds the files that are open for a moment, however many callers there are at once. */
  readonly opening: Gate
}

export const fsPaths = (directory: string): FsPaths => ({
  blobs: join(directory, 'blobs'),
  names: join(directory, 'names'),
  leases: join(directory, 'leases'),
  quarantine: join(directory, 'quarantine'),
  tmp: join(directory, 'tmp'),
})

export const SHARDS = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, '0'))
/** Damaged files that are kept to be looked at. */
const quarantinedMax = 100

export const isHash = (hash: string): hash is BlobHash => blobHashSchema.safeParse(hash).success
export const shardOf = ({ blobs }: FsPaths, hash: BlobHash): string => join(blobs, hash.slice(0, 2))
export const pathOf = (paths: FsPaths, hash: BlobHash): string => join(shardOf(paths, hash), hash)

/** All folders of blobs, so that no put has to make one. */
export const makeShards = async (paths: FsPaths, disk: Disk, directory: string): Promise<void> => {
  const there = new Set(await readdir(paths.blobs))
  const missing = SHARDS.filter((shard) => !there.has(shard))
  if (missing.length === 0) return
  try {
    await Promise.all(missing.map((shard) => mkdir(join(paths.blobs, shard), { recursive: true, mode: 0o700 })))
    await disk.syncDirectory(paths.blobs)
    await disk.syncDirectory(directory)
  } catch (cause) {
    if (!isErrno(cause, 'EROFS')) throw cause
  }
}

/**
 * False: it is not there. Under the blob's lock, so that a collection looks before or after. Under a lease it need not be
 * durable: after a crash it is the lease that holds the blob.
 */
export const touchBlob = async (
  { paths, disk, fresh }: FsContext,
  hash: BlobHash,
  durability: 'durable' | 'leased',
): Promise<boolean> => {
  if (!isHash(hash)) return false
  const handle = await open(pathOf(paths, hash)).catch(notThere)
  if (!handle) return false
  try {
    const isFresh = fresh.has(hash, await handle.stat({ bigint: true }))
    const now = new Date()
    await disk.step('touch')
    await handle.utimes(now, now)
    if (durability === 'durable') await handle.sync()
    if (isFresh) fresh.add(hash, await handle.stat({ bigint: true }))
  } catch (cause) {
    // Where nothing can be written nothing can be collected.
    if (!isErrno(cause, 'EROFS')) throw cause
  } finally {
    await handle.close()
  }
  return true
}

/** False: it was touched since, or is held. Under the blob's lock. */
export const removeBlob = async (
  { paths, disk, leases, room, tally }: FsContext,
  hash: BlobHash,
  idleSinceMs?: number,
): Promise<boolean> => {
  if (!isHash(hash)) return true
  const path = pathOf(paths, hash)
  const stats = await stat(path).catch(notThere)
  if (!stats) return true
  if (idleSinceMs !== undefined && (stats.mtimeMs >= idleSinceMs || leases.isHeld(hash))) return false
  const sizes = await sizesOf(paths, hash)
  await disk.step('unlink')
  using change = tally.begin(hash)
  await unlink(path).catch(notThere)
  if (sizes) change.done('removed', sizes)
  room.freed(stats.size)
  leases.lost(hash)
  return true
}

export async function* listBlobs(
  { paths }: Pick<FsContext, 'paths'>,
  { signal }: Abortable,
): AsyncGenerator<ListedBlob & { readonly usedMs: number }, void, undefined> {
  for (const shard of SHARDS)
    for (const hash of (await onDisk(() => readdir(join(paths.blobs, shard)).catch(notThere))) ?? []) {
      signal?.throwIfAborted()
      if (!hash.startsWith(shard) || !isHash(hash)) continue
      const stats = await onDisk(() => stat(pathOf(paths, hash)).catch(notThere))
      if (stats)
        yield {
          hash,
          storedBytes: stats.size,
          touchedMs: stats.mtimeMs,
          usedMs: Math.max(stats.mtimeMs, stats.atimeMs),
        }
    }
}

/** Sets the file aside, if it is still the one that was read, and gives the error that names it. */
export const setAside = async (
  { paths, disk, lock, room, leases, tally }: FsContext,
  hash: BlobHash,
  ino: bigint,
  what: string,
): Promise<BrambleError> => {
  const name = `${hash}-${Date.now()}`
  const moved = await lock(hash, async () => {
    const path = pathOf(paths, hash)
    try {
      const stats = await stat(path, { bigint: true })
      if (stats.ino !== ino) return false
      const sizes = await sizesOf(paths, hash)
      await disk.step('quarantine')
      using change = tally.begin(hash)
      await rename(path, join(paths.quarantine, name))
      if (sizes) change.done('removed', sizes)
      room.freed(Number(stats.size))
      leases.lost(hash)
      await disk.syncDirectory(shardOf(paths, hash))
      return true
    } catch {
      // A disk that fails, or is read-only: the damage is what the reader is to be told of.
      return false
    }
  })
  await removeOldest(paths.quarantine).catch(() => undefined)
  const where = moved ? `; set aside as quarantine/${name}` : ''
  return new BrambleError('blob_corrupt', { detail: `${hash} in fs: ${what}${where}` })
}

const removeOldest = async (quarantine: string): Promise<void> => {
  const ageOf = (name: string): string => name.split('-')[1] ?? ''
  const names = (await readdir(quarantine)).sort((left, right) => (ageOf(left) < ageOf(right) ? 1 : -1))
  for (const name of names.slice(quarantinedMax)) await unlink(join(quarantine, name))
}

export const notThere = (cause: unknown): undefined => {
  if (isErrno(cause, 'ENOENT')) return undefined
  throw cause
}
