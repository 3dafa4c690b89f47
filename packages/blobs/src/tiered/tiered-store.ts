import { join } from 'node:path'
import { type BlobHash, BrambleError, type StoreStats } from '@bramble/protocol'
import type { Abortable, BlobStore, LowerTier } from '../blob-store.ts'
import type { Step } from '../fs/disk.ts'
import { keyedLock } from '../keyed-lock.ts'
import { until } from '../until.ts'
import { bindTiers } from './bind-tiers.ts'
import { openBreaker } from './breaker.ts'
import { recentSet, type SharedTier, type TierEvent, type TieredContext } from './context.ts'
import { blobFetcher } from './fetch-blob.ts'
import { tieredBlobs } from './tiered-blobs.ts'
import { tieredNames } from './tiered-names.ts'
import { openUploadQueue } from './upload-queue.ts'
import { openUploader } from './uploader.ts'
import { verifyTiers } from './verify-tiers.ts'

export interface TieredStoreOptions {
  /** Closed by the tiered store, as `shared` is. */
  readonly local: BlobStore
  readonly shared: SharedTier
  /** Of its own: the queue of uploads. */
  readonly directory: string
  readonly observe?: (event: TierEvent) => void
  /** Blobs and names on their way to the shared tier at once. Default 4. */
  readonly uploadsAtOnce?: number
  /** How long a request may wait for the shared tier's answer to begin. Default 5 s. */
  readonly answerMs?: number
  /** After the first failure, before the shared tier is tried again. Default 1 s. */
  readonly firstPauseMs?: number
  /** How far behind the other nodes a name may be. Default 5 s. */
  readonly nameFreshMs?: number
  /** Milliseconds since 1970. */
  readonly now?: () => number
  readonly random?: () => number
  readonly step?: Step
}

export interface TieredStore extends BlobStore {
  readonly lower: LowerTier
  stats(options?: Abortable): Promise<StoreStats>
  /** Whether the local copy may go: the shared tier has one, as far as one can tell without reading it. */
  isEvictable(hash: BlobHash): Promise<boolean>
}

/** Of blobs that were uploaded: at 100 bytes each. */
const uploadedMax = 100_000
/** Shorter than a shared tier lets a blob be before it wants it anew. */
const uploadedMs = 3 * 3_600_000

/**
 * A local tier with a shared one behind it. What is put is durable locally when that resolves, and queued for the shared tier;
 * the queue survives crashes. What is not here is fetched from there, verified and kept. `list` and collections are about the
 * local tier: what the shared one keeps is its own collection's affair. `docs/storage.md` has the rules.
 */
export const tieredStore = async (options: TieredStoreOptions): Promise<TieredStore> => {
  const { local, shared, directory, observe = () => undefined, now = Date.now, random = Math.random } = options
  const { step = () => undefined, firstPauseMs = 1000, answerMs = 5000 } = options
  const label = shared.label ?? shared.name
  const queue = await openUploadQueue(join(directory, 'queue'), step)
  const closing = new AbortController()
  const inBackground = new Set<Promise<unknown>>()
  const probe = (signal: AbortSignal): Promise<unknown> =>
    shared.check?.({ signal }) ?? shared.names.get('probe', { signal })
  const breaker = openBreaker({
    label,
    withinMs: answerMs,
    probe,
    firstPauseMs,
    random,
    onChange: (state) => {
      observe(state.available ? { kind: 'available' } : { kind: 'unavailable', reason: state.reason })
      if (state.available) uploader.kick()
    },
  })
  let bound = shared.identity === undefined
  const context: TieredContext = {
    local,
    shared,
    queue,
    breaker,
    lock: keyedLock(),
    uploaded: recentSet(uploadedMax, uploadedMs, now),
    observe,
    step,
    now,
    kick: () => uploader.kick(),
    background: (run) => {
      const settled = run.then(
        () => undefined,
        () => undefined,
      )
      inBackground.add(settled)
      settled.finally(() => inBackground.delete(settled))
    },
    isBound: () => bound,
    nameFreshMs: options.nameFreshMs ?? 5000,
  }
  const uploader = openUploader(context, { atOnce: options.uploadsAtOnce ?? 4, firstPauseMs, random })
  const fetch = blobFetcher(context, closing.signal)
  const blobs = tieredBlobs(context, fetch)
  const names = tieredNames(context)
  const binding = bindTiers(context, { directory, signal: closing.signal, firstPauseMs }).then((isBound) => {
    bound ||= isBound
  })
  context.background(binding)
  uploader.kick()

  const statsOf = counted(local, now)

  let closed: Promise<void> | undefined
  const close = (): Promise<void> => {
    closed ??= (async () => {
      closing.abort(new BrambleError('shutting_down', { detail: 'the store is closed' }))
      breaker.close()
      await uploader.close()
      await Promise.all(inBackground)
      await queue.close()
      await local.close()
      await shared.close()
    })()
    return closed
  }
  const failure = (): string | undefined => (breaker.state.available ? uploader.failure : breaker.state.reason)
  return {
    name: 'tiered',
    put: blobs.put,
    get: blobs.get,
    stat: blobs.stat,
    list: (listOptions) => local.list(listOptions),
    remove: blobs.remove,
    names,
    leases: blobs.leases,
    settled: async ({ signal } = {}) => {
      // Whoever waits keeps the process; the pauses between attempts do not.
      const held = setInterval(() => undefined, 60_000)
      try {
        await local.settled({ signal })
        await until(binding, signal)
        await queue.empty(signal)
      } finally {
        clearInterval(held)
      }
    },
    stats: async (statsOptions) => {
      const reason = failure()
      return {
        ...(await statsOf(statsOptions ?? {})),
        pendingUploads: queue.size,
        pendingBytes: queue.storedBytes,
        lowerTier: { url: label, available: reason === undefined, ...(reason !== undefined && { reason }) },
      }
    },
    lower: {
      label,
      get state(): LowerTier['state'] {
        const reason = failure()
        return reason === undefined ? { available: true } : { available: false, reason }
      },
      isLocal: async (hash) => (await local.stat(hash)) !== undefined,
      prefetch: async (hash) => ((await local.stat(hash)) ? undefined : fetch(hash)),
      verify: (verifyOptions = {}) => verifyTiers(context, fetch, verifyOptions),
    },
    isEvictable: async (hash) => {
      if (queue.get('blob', hash) || closing.signal.aborted) return false
      if (context.uploaded.has(hash)) return true
      try {
        return (await breaker.run((signal) => shared.stat(hash, { signal }))) !== undefined
      } catch {
        // Whatever keeps one from being sure of the other copy.
        return false
      }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** Counted anew after this time: counting lists the store. */
const countedMs = 5 * 60_000

/** What the local tier holds, of its own counts or of a listing now and then. */
const counted = (local: BlobStore, now: () => number): ((options: Abortable) => Promise<StoreStats>) => {
  let last: { readonly atMs: number; readonly stats: Promise<StoreStats> } | undefined
  const count = async (): Promise<StoreStats> => {
    let [blobs, storedBytes] = [0, 0]
    for await (const blob of local.list()) {
      blobs++
      storedBytes += blob.storedBytes
    }
    return { blobs, storedBytes, maxBytes: null, pendingUploads: 0, pendingBytes: 0 }
  }
  return async (options) => {
    if (local.stats) return local.stats(options)
    if (!last || now() - last.atMs > countedMs) {
      const one = { atMs: now(), stats: count() }
      last = one
      one.stats.catch(() => {
        if (last === one) last = undefined
      })
    }
    return until(last.stats, options.signal)
  }
}
