import { constants } from 'node:fs'
import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { footerBytes, readFooter } from '../codec/layout.ts'
import { until } from '../until.ts'
import { type FsPaths, isHash, notThere, pathOf, SHARDS } from './fs-blobs.ts'
import { onDisk } from './fs-error.ts'

export interface Totals {
  blobs: number
  /** Of the contents. */
  sizeBytes: number
  storedBytes: number
}

export interface Change extends Disposable {
  /** What became of it; without this call, nothing did. */
  done(what: 'put' | 'removed', sizes: { readonly sizeBytes: number; readonly storedBytes: number }): void
}

/** What a store holds: counted once, beside all else, and from then on as it changes. */
export interface Tally {
  /** From before a blob gets or loses its name until after that. */
  begin(hash: BlobHash): Change
  /** Waits for the count. Rejects with the disk's errors; the next call counts anew. */
  totals(signal?: AbortSignal): Promise<Totals>
  close(): Promise<void>
}

interface Shard {
  state: 'unseen' | 'looking' | 'counted'
  /** Changes that are under way. */
  busy: number
  /** Something changed while it was looked at. */
  isStale: boolean
}

/** A folder that changes all the time is taken as it was last seen. */
const maxLooks = 8

/** `eager`: the count begins now, and not when somebody asks for it. */
export const blobTally = (paths: FsPaths, { eager }: { readonly eager: boolean }): Tally => {
  const totals: Totals = { blobs: 0, sizeBytes: 0, storedBytes: 0 }
  const shards = new Map<string, Shard>(SHARDS.map((name) => [name, { state: 'unseen', busy: 0, isStale: false }]))
  const closing = new AbortController()
  let quiet = Promise.withResolvers<void>()
  let counting: Promise<void> | undefined

  const add = ({ blobs, sizeBytes, storedBytes }: Totals, sign: 1 | -1): void => {
    totals.blobs += sign * blobs
    totals.sizeBytes += sign * sizeBytes
    totals.storedBytes += sign * storedBytes
  }

  const countShard = async (name: string, shard: Shard): Promise<void> => {
    for (let looks = 1; ; looks++) {
      while (shard.busy > 0) await until(quiet.promise, closing.signal)
      shard.state = 'looking'
      shard.isStale = false
      const found = await look(paths, name, closing.signal)
      if (shard.isStale && looks < maxLooks) continue
      shard.state = 'counted'
      return add(found, 1)
    }
  }

  const count = async (): Promise<void> => {
    for (const [name, shard] of shards) if (shard.state !== 'counted') await countShard(name, shard)
  }

  const start = (): Promise<void> => {
    counting ??= count().catch((error: unknown) => {
      counting = undefined
      throw error
    })
    return counting
  }
  if (eager) start().catch(() => undefined)

  return {
    begin: (hash) => {
      const shard = shards.get(hash.slice(0, 2))
      if (!shard) return { done: () => undefined, [Symbol.dispose]: () => undefined }
      const isCounted = shard.state === 'counted'
      if (shard.state === 'looking') shard.isStale = true
      shard.busy++
      let isOpen = true
      return {
        done: (what, sizes) => {
          if (isCounted) add({ blobs: 1, ...sizes }, what === 'put' ? 1 : -1)
        },
        [Symbol.dispose]: () => {
          if (!isOpen) return
          isOpen = false
          shard.busy--
          if (shard.busy > 0) return
          quiet.resolve()
          quiet = Promise.withResolvers<void>()
        },
      }
    },
    totals: async (signal) => {
      await until(start(), signal)
      return { ...totals }
    },
    close: async () => {
      closing.abort()
      await counting?.catch(() => undefined)
    },
  }
}

const look = async (paths: FsPaths, shard: string, signal: AbortSignal): Promise<Totals> => {
  const found: Totals = { blobs: 0, sizeBytes: 0, storedBytes: 0 }
  for (const hash of (await onDisk(() => readdir(join(paths.blobs, shard)).catch(notThere))) ?? []) {
    signal.throwIfAborted()
    const sizes = isHash(hash) ? await onDisk(() => sizesOf(paths, hash)) : undefined
    if (!sizes) continue
    found.blobs++
    found.sizeBytes += sizes.sizeBytes
    found.storedBytes += sizes.storedBytes
  }
  return found
}

/**
 * Of the file that is there, by its end: one that is damaged there counts as nothing of content. When a blob was last read decides
 * what is evicted: this is no reading.
 */
export const sizesOf = async (
  paths: FsPaths,
  hash: BlobHash,
): Promise<{ sizeBytes: number; storedBytes: number } | undefined> => {
  const handle = await open(pathOf(paths, hash), constants.O_RDONLY | constants.O_NOATIME).catch(notThere)
  if (!handle) return undefined
  try {
    const { size: storedBytes } = await handle.stat()
    const end = Buffer.alloc(Math.min(footerBytes, storedBytes))
    await handle.read(end, 0, end.length, storedBytes - end.length)
    return { sizeBytes: contentBytes(end, storedBytes), storedBytes }
  } finally {
    await handle.close()
  }
}

const contentBytes = (end: Buffer, storedBytes: number): number => {
  try {
    const footer = readFooter(end, storedBytes)
    return typeof footer === 'string' ? 0 : footer.sizeBytes
  } catch {
    // Of another version of the format.
    return 0
  }
}
