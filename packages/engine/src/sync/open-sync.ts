import { rm } from 'node:fs/promises'
import type { BlobStore } from '@bramble/blobs'
import { type BlobHash, BrambleError, toBrambleError } from '@bramble/protocol'
import { type Abortable, createLayerFiles, type ImageStore, type LocalImage } from '@bramble/runtime'
import type { Log } from '../options.ts'
import type { Volumes } from '../volumes/volumes.ts'
import { type Announcement, countUses, openPopularity, parseAnnouncement } from './popularity.ts'
import { prefetch } from './prefetch.ts'
import { findShared, type ImageSharing, obtainImage, shareImage } from './share-image.ts'
import { shareRoots } from './share-roots.ts'
import { cacheSync } from './sync-caches.ts'

export interface SyncDeps {
  readonly blobs: BlobStore
  readonly images: ImageStore
  /** Of this node, among those that share the store. */
  readonly node: string
  readonly log: Log
  readonly isIdle: () => boolean
  /** Absent where no runtime keeps any. */
  readonly volumes?: Pick<Volumes, 'generations' | 'adopt'> | undefined
  /** What is fetched lies there until it is in its place; removed at the start. */
  readonly stagingDirectory: string
  /** Blobs that this node needs, and no name in the store leads to. */
  readonly roots: () => AsyncIterable<BlobHash>
  readonly limits?: Partial<SyncLimits> | undefined
}

export interface SyncLimits {
  /** Between two looks at what other nodes use. */
  readonly syncEveryMs: number
  /** What a node fetches ahead in an hour. */
  readonly maxPrefetchBytes: number
}

/**
 * What nodes of one store do for each other before they are asked: each tells what it uses (`popular/<node>`), puts the images it
 * uses into the store, and fetches in its idle time what the others use. Without a shared tier nothing of that happens.
 */
export interface Sync {
  /** The store, with a count of what is used. */
  readonly blobs: BlobStore
  /** An execution or instance uses the image. */
  usedImage(digest: string): void
  /** A snapshot of it was taken: other nodes may need the image from now on. */
  needImage(digest: string): void
  /** The image, from the store where this node lacks it; `image_not_found`. */
  obtainImage(digest: string, options?: Abortable): Promise<LocalImage>
  /** Begins with what was announced before, and goes on every `syncEveryMs`. */
  start(): void
  /** One round now: announce, share, fetch. Gives how many bytes came. */
  round(): Promise<number>
  close(): Promise<void>
}

export const SYNC_LIMITS: SyncLimits = { syncEveryMs: 60_000, maxPrefetchBytes: 4 * 1024 ** 3 }

const ANNOUNCEMENTS = 'popular/'
/** A snapshot is seldom alone. */
const SOON_MS = 500
/** Well within what a collection of the shared tier leaves alone. */
const ROOTS_EVERY_MS = 10 * 60_000
const HOUR_MS = 3_600_000
/** More nodes than that are not listened to. */
const NODES_MAX = 1000
/** A node that never rests shares the images it uses all the same, after so many rounds. */
const BUSY_ROUNDS_MAX = 10

export const openSync = ({ blobs: store, images, node, log, isIdle, ...deps }: SyncDeps): Sync => {
  const limits = { ...SYNC_LIMITS, ...deps.limits }
  const popularity = openPopularity()
  const blobs = countUses(store, popularity)
  const files = createLayerFiles()
  const sharing: ImageSharing = { blobs: store, images, files }
  const closing = new AbortController()
  const { signal } = closing
  const { volumes, stagingDirectory } = deps
  const caches = volumes && cacheSync({ blobs: store, files, volumes, node, stagingDirectory }, { log, isIdle })
  /** Used here, and not known to be in the store. */
  const toShare = new Set<string>()
  /** Of these, whether the node is idle or not. */
  const needed = new Set<string>()
  const shared = new Set<string>()
  const obtaining = new Map<string, Promise<LocalImage>>()
  const budget = { leftBytes: limits.maxPrefetchBytes, fullAtMs: performance.now() }
  const uploading = new Set<Promise<void>>()
  let announcedUses = 0
  let busyRounds = 0
  let rootsSharedAtMs = Number.NEGATIVE_INFINITY

  const obtain = (digest: string): Promise<LocalImage> => {
    const present = obtaining.get(digest)
    if (present) return present
    const obtained = obtainImage(sharing, digest, { signal }).finally(() => obtaining.delete(digest))
    obtaining.set(digest, obtained)
    return obtained
  }

  const announce = async (): Promise<void> => {
    if (popularity.uses === announcedUses) return
    announcedUses = popularity.uses
    const value = Buffer.from(JSON.stringify(popularity.announcement()))
    await store.names.set(`${ANNOUNCEMENTS}${node}`, value, { signal })
  }

  const others = async (): Promise<Announcement[]> => {
    const found: Announcement[] = []
    for await (const name of store.names.list(ANNOUNCEMENTS, { signal })) {
      if (name === `${ANNOUNCEMENTS}${node}` || found.length >= NODES_MAX) continue
      const value = await store.names.get(name, { signal })
      const announcement = value && parseAnnouncement(value)
      if (announcement) found.push(announcement)
    }
    return found
  }

  const shareOne = async (image: LocalImage): Promise<void> => {
    const stored = await shareImage(sharing, image, { signal })
    if (!stored) return
    const { newStoredBytes: storedBytes, uploaded } = stored
    log.info({ image: image.digest, storedBytes }, 'an image is in the store')
    hold(uploaded)
  }
  const hold = (uploaded: Promise<void>): void => {
    uploading.add(uploaded)
    void uploaded.catch(() => undefined).then(() => uploading.delete(uploaded))
  }

  const share = async (): Promise<void> => {
    for (const digest of toShare) {
      if (signal.aborted) return
      if (!isIdle() && busyRounds < BUSY_ROUNDS_MAX && !needed.has(digest)) continue
      const image = images.list().find((each) => each.digest === digest)
      try {
        if (image) await shareOne(image)
      } catch (error) {
        // Once is enough of what this node cannot do; what the store could not do, it may be able to later.
        if (signal.aborted || toBrambleError(error).code === 'store_unavailable') throw error
        log.warn({ image: digest, detail: toBrambleError(error).detail }, 'an image could not be put into the store')
      }
      toShare.delete(digest)
      needed.delete(digest)
      shared.add(digest)
    }
  }

  const round = async (): Promise<number> => {
    if (!store.lower) return 0
    if (performance.now() - budget.fullAtMs > HOUR_MS)
      Object.assign(budget, { leftBytes: limits.maxPrefetchBytes, fullAtMs: performance.now() })
    busyRounds = isIdle() ? 0 : busyRounds + 1
    await announce()
    if (performance.now() - rootsSharedAtMs > ROOTS_EVERY_MS) {
      await shareRoots(store, node, deps.roots(), { signal })
      rootsSharedAtMs = performance.now()
    }
    await share()
    for (const uploaded of (await caches?.share({ signal })) ?? []) hold(uploaded)
    if (!isIdle()) return 0
    const ofCaches = (await caches?.take(budget, { signal })) ?? 0
    budget.leftBytes -= ofCaches
    const came = await prefetch(
      {
        blobs: store,
        signal,
        isIdle,
        budget,
        obtainImage: async (digest) => {
          if (images.list().some((image) => image.digest === digest)) return undefined
          const pointer = await findShared(sharing, digest, { signal })
          if (!pointer || pointer.sizeBytes > budget.leftBytes) return undefined
          return (await obtain(digest)).sizeBytes
        },
      },
      await others(),
    )
    return ofCaches + came
  }

  let running: Promise<number> | undefined
  const runRound = (): Promise<number> => {
    running ??= round().finally(() => {
      running = undefined
    })
    return running
  }
  const start = async (): Promise<void> => {
    await rm(stagingDirectory, { recursive: true, force: true })
    const own = await store.names.get(`${ANNOUNCEMENTS}${node}`, { signal })
    const before = own && parseAnnouncement(own)
    if (before) popularity.remember(before)
    await runRound()
  }
  const report = (error: unknown): void => {
    const { code, detail } = toBrambleError(error)
    if (signal.aborted || code === 'store_unavailable') return
    log.warn({ code, detail }, 'what nodes share could not be brought up to date')
  }
  let starting: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let soon: NodeJS.Timeout | undefined

  return {
    blobs,
    usedImage: (digest) => {
      if (!store.lower) return
      popularity.used('images', digest)
      if (!shared.has(digest)) toShare.add(digest)
    },
    needImage: (digest) => {
      if (!store.lower || shared.has(digest) || signal.aborted) return
      toShare.add(digest)
      needed.add(digest)
      soon ??= setTimeout(() => {
        soon = undefined
        runRound().catch(report)
      }, SOON_MS).unref()
    },
    obtainImage: async (digest) => {
      const here = images.list().find((image) => image.digest === digest)
      if (here || !store.lower) return here ?? images.resolve(digest)
      return obtain(digest)
    },
    start: () => {
      if (!store.lower || signal.aborted) return
      starting ??= start().catch(report)
      timer ??= setInterval(() => runRound().catch(report), limits.syncEveryMs).unref()
    },
    round: runRound,
    close: async () => {
      closing.abort(new BrambleError('shutting_down', { detail: 'the engine is closing' }))
      clearInterval(timer)
      clearTimeout(soon)
      await starting
      await Promise.allSettled([running, ...obtaining.values(), ...uploading])
      await files.close()
    },
  }
}
