import { BrambleError, type Pool as PoolView } from '@bramble/protocol'
import type { Endings } from './endings.ts'
import type { EngineLimits } from './engine.ts'
import type { Load } from './load.ts'
import type { Clock, EngineNotice, Log } from './options.ts'
import {
  createPool,
  type Fresh,
  isExchangeable,
  type Kind,
  makeFresh,
  nameOfKind,
  noteFailure,
  type Pool,
  spareOf,
  type Taker,
} from './pool.ts'
import type { Quiet } from './quiet.ts'

/** A sandbox to come. `ready` resolves with `undefined` after `leave`, and rejects where none could be made. */
export interface Coming {
  readonly ready: Promise<Fresh | undefined>
  leave(): void
}

/**
 * Owns every sandbox from its making until someone takes it. Who finds none ready is served by the next one that becomes
 * ready, whatever it was begun for: there is one making for each demand. Nothing is made ahead while someone waits.
 */
export interface Pools {
  take(kind: Kind): Fresh | Coming
  /** The taker of a sandbox of that kind is done with it. */
  returned(kind: Kind): void
  prewarm(kind: Kind, count: number, signal?: AbortSignal): Promise<PoolView>
  /** Keeps the kind ready as the default of the node, whatever the demand. */
  keep(kind: Kind): void
  /** There may be room, or work, that was not there before. */
  pump(): void
  /** Gives up ready ones until there is room for a sandbox of so much memory that is made elsewhere. */
  makeRoom(memoryMb: number): void
  /** Gives up what recent demand does not call for any more. */
  shrink(): void
  /** Gives up all ready ones of an image; true when nobody waits for one. */
  dropImage(digest: string): boolean
  list(): PoolView[]
  readonly pooled: number
  /** Gives everything up; resolves when nothing is being made any more. */
  close(): Promise<void>
}

export interface PoolsDeps {
  readonly limits: Pick<
    EngineLimits,
    'maxPooled' | 'maxPooledMemoryMb' | 'maxPools' | 'maxMemoryMb' | 'maxStarting' | 'minReady' | 'startTimeoutMs'
  >
  readonly load: Load
  readonly endings: Endings
  readonly quiet: Quiet
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
}

export const isComing = (taken: Fresh | Coming): taken is Coming => 'ready' in taken

/** How long filling a pool may wait for a quiet moment: while it has half of what it should, and when it has less. */
const FILL_WITHIN_MS = 1000
const FILL_SCARCE_WITHIN_MS = 2
/** How much one duration moves the mean. */
const CREATE_WEIGHT = 0.2

export const createPools = (deps: PoolsDeps): Pools => {
  const { limits, load, endings, quiet, clock, log, notice } = deps
  const pools = new Map<string, Pool>()
  let starting = 0
  let nextTurn = 0
  let kept: string | undefined
  let closed = false
  let retryTimer: { timer: NodeJS.Timeout; atMs: number } | undefined
  const idle = Promise.withResolvers<void>()

  const memoryOf = (pool: Pool): number => pool.kind.resources.memoryMb
  const minOf = (pool: Pool): number => Math.max(pool.floor, pool.name === kept ? limits.minReady : 0)
  const targetOf = (pool: Pool): number => {
    if (pool.retired || !isExchangeable(pool.kind) || memoryOf(pool) > limits.maxPooledMemoryMb) return 0
    const wanted = pool.demand.wanted(clock.monotonicMs(), pool.createMs) + (pool.name === kept ? limits.minReady : 0)
    return Math.min(limits.maxPooled, Math.max(pool.floor, wanted))
  }
  const pooled = (): { count: number; memoryMb: number } => {
    let count = 0
    let memoryMb = 0
    for (const pool of pools.values()) {
      const spare = spareOf(pool)
      count += spare
      memoryMb += spare * memoryOf(pool)
    }
    return { count, memoryMb }
  }

  const giveUpOldest = (pool: Pool, now = false): boolean => {
    const oldest = pool.ready.shift()
    if (oldest) endings.bury(oldest.sandbox, { now })
    return oldest !== undefined
  }

  /** Gives up one ready sandbox of the pool that was in demand least recently: before `thanMs`, above its least. */
  const evictOne = (except: Pool | undefined, thanMs: number): boolean => {
    let victim: Pool | undefined
    for (const pool of pools.values()) {
      // Someone who waits goes before what is kept for nobody in particular.
      const least = thanMs === Number.POSITIVE_INFINITY ? 0 : minOf(pool)
      if (pool === except || pool.ready.length <= least || pool.demand.lastMs >= thanMs) continue
      if (!victim || pool.demand.lastMs < victim.demand.lastMs) victim = pool
    }
    return victim !== undefined && giveUpOldest(victim, true)
  }

  /** Whether there is memory for one more of the pool now; where there is not, makes some by giving others up. */
  const hasMemory = (pool: Pool, evictBeforeMs: number): boolean => {
    if (load.boxesMb + memoryOf(pool) <= limits.maxMemoryMb) return true
    evictFor(memoryOf(pool), pool, evictBeforeMs)
    return false
  }
  const evictFor = (memoryMb: number, except: Pool | undefined, evictBeforeMs: number): void => {
    // What is on its way out already will be room soon.
    while (load.boxesMb - load.endingMb + memoryMb > limits.maxMemoryMb && evictOne(except, evictBeforeMs));
  }

  const poolOf = (kind: Kind): Pool => {
    const name = nameOfKind(kind)
    const existing = pools.get(name)
    if (existing) return existing
    const pool = createPool(kind)
    pools.set(name, pool)
    if (pools.size > limits.maxPools) forgetLeastDemanded(pool)
    return pool
  }

  const isBusy = (pool: Pool): boolean => pool.starting > 0 || pool.takers.length > 0 || minOf(pool) > 0
  const forget = (pool: Pool): void => {
    while (giveUpOldest(pool));
    pools.delete(pool.name)
  }
  const forgetLeastDemanded = (except: Pool): void => {
    let least: Pool | undefined
    for (const pool of pools.values()) {
      if (pool === except || isBusy(pool)) continue
      if (!least || pool.demand.lastMs < least.demand.lastMs) least = pool
    }
    if (least) forget(least)
  }

  const start = (pool: Pool): void => {
    starting++
    pool.starting++
    load.boxesMb += memoryOf(pool)
    const controller = new AbortController()
    pool.starts.add(controller)
    const beganMs = clock.monotonicMs()
    const settle = (): void => {
      starting--
      pool.starting--
      pool.starts.delete(controller)
      if (closed && starting === 0) idle.resolve()
    }
    makeFresh(pool.kind, limits.startTimeoutMs, controller.signal).then(
      (fresh) => {
        settle()
        const durationMs = clock.monotonicMs() - beganMs
        pool.createMs += (durationMs - pool.createMs) * CREATE_WEIGHT
        notice({ type: 'sandboxMade', runtime: fresh.sandbox.runtime, durationMs })
        deliver(pool, fresh)
        pump()
      },
      (error: unknown) => {
        settle()
        load.boxesMb -= memoryOf(pool)
        fail(pool, error)
        pump()
      },
    )
  }

  const deliver = (pool: Pool, fresh: Fresh): void => {
    const taker = pool.takers.shift()
    if (taker) {
      pool.failures = 0
      taker.resolve(fresh)
      return
    }
    if (closed || pool.retired || pool.ready.length >= targetOf(pool)) {
      endings.bury(fresh.sandbox)
      return
    }
    pool.ready.push(fresh)
    void fresh.sandbox.ended.then((end) => lost(pool, fresh, end.by === 'itself' ? end.detail : 'it was destroyed'))
    for (const watcher of pool.watchers) if (pool.ready.length >= watcher.count) watcher.resolve()
  }

  /** A sandbox that waited in its pool ended by itself. */
  const lost = (pool: Pool, fresh: Fresh, detail: string): void => {
    const at = pool.ready.indexOf(fresh)
    if (at < 0) return
    pool.ready.splice(at, 1)
    log.warn({ sandbox: fresh.sandbox.id, image: pool.kind.image.digest, detail }, 'a pooled sandbox ended by itself')
    noteFailure(pool, clock.monotonicMs())
    endings.bury(fresh.sandbox)
    pump()
  }

  const fail = (pool: Pool, error: unknown): void => {
    if (closed || pool.retired) return
    noteFailure(pool, clock.monotonicMs())
    notice({ type: 'sandboxNotMade', runtime: pool.kind.runtime.name })
    log.warn({ err: error, image: pool.kind.image.digest, failures: pool.failures }, 'a sandbox could not be made')
    pool.takers.shift()?.reject(error)
    for (const watcher of pool.watchers) watcher.reject(error)
  }

  /** The pool of the taker that waits longest with nothing being made for it. */
  const mostOwed = (): Pool | undefined => {
    let most: { pool: Pool; taker: Taker } | undefined
    for (const pool of pools.values()) {
      const taker = pool.takers[pool.starting]
      if (taker && (!most || taker.turn < most.taker.turn)) most = { pool, taker }
    }
    return most?.pool
  }

  const anyTakers = (): boolean => {
    for (const pool of pools.values()) if (pool.takers.length > 0) return true
    return false
  }

  const retryAt = (atMs: number): void => {
    if (retryTimer && retryTimer.atMs <= atMs) return
    clearTimeout(retryTimer?.timer)
    const retry = (): void => {
      retryTimer = undefined
      refill()
    }
    retryTimer = { timer: setTimeout(retry, atMs - clock.monotonicMs()).unref(), atMs }
  }

  const isBelowMin = (pool: Pool): boolean => spareOf(pool) < minOf(pool)

  /**
   * The pools that have less than their target: those below what they must keep first, then by how lately they were in
   * demand. Eviction follows the same order, so what was given up for another is not made again in its place.
   */
  const lacking = (): Pool[] => {
    const nowMs = clock.monotonicMs()
    const found: Pool[] = []
    for (const pool of pools.values()) {
      if (spareOf(pool) >= targetOf(pool)) continue
      if (pool.retryAtMs > nowMs) retryAt(pool.retryAtMs)
      else found.push(pool)
    }
    const later = (a: Pool, b: Pool): number =>
      a.demand.lastMs === b.demand.lastMs ? 0 : b.demand.lastMs > a.demand.lastMs ? 1 : -1
    return found.sort((a, b) => Number(isBelowMin(b)) - Number(isBelowMin(a)) || later(a, b))
  }

  /** The pool to make a sandbox for ahead of demand; room is made for what is in demand by what is less so. */
  const nextToFill = (): Pool | undefined => {
    const sum = pooled()
    for (const pool of lacking()) {
      const evictBeforeMs = isBelowMin(pool) ? Number.MAX_VALUE : pool.demand.lastMs
      const fits = sum.count < limits.maxPooled && sum.memoryMb + memoryOf(pool) <= limits.maxPooledMemoryMb
      if (fits) {
        if (hasMemory(pool, evictBeforeMs)) return pool
      } else if (load.ending === 0) evictOne(pool, evictBeforeMs)
    }
    return undefined
  }

  const refill = (): void => {
    while (!closed && starting < limits.maxStarting && !anyTakers()) {
      const pool = nextToFill()
      if (!pool) return
      start(pool)
    }
  }

  const isScarce = (pool: Pool): boolean => pool.ready.length * 2 < targetOf(pool)
  const fillSoon = (): void => {
    let scarce = false
    for (const pool of pools.values()) scarce ||= isScarce(pool)
    quiet.whenQuiet(refill, scarce ? FILL_SCARCE_WITHIN_MS : FILL_WITHIN_MS)
  }

  const pump = (): void => {
    if (closed) return
    for (let pool = mostOwed(); pool && starting < limits.maxStarting; pool = mostOwed()) {
      // Admission keeps what runs within the node's memory: only pooled sandboxes can be in the way here.
      if (!hasMemory(pool, Number.POSITIVE_INFINITY)) return
      start(pool)
    }
    fillSoon()
  }

  const viewOf = (pool: Pool): PoolView => ({
    image: pool.kind.image.names[0] ?? pool.kind.image.digest,
    runtime: pool.kind.runtime.name,
    resources: pool.kind.resources,
    ready: pool.ready.length,
    starting: pool.starting,
    target: targetOf(pool),
    floor: pool.floor,
    hits: pool.hits,
    misses: pool.misses,
  })

  /** Throws `invalid_request` where the floors of all pools together would be more than pools may hold. */
  const assertFloorFits = (pool: Pool, count: number): void => {
    let sandboxes = count
    let memoryMb = count * memoryOf(pool)
    for (const other of pools.values()) {
      if (other === pool) continue
      sandboxes += minOf(other)
      memoryMb += minOf(other) * memoryOf(other)
    }
    const maxMemoryMb = Math.min(limits.maxPooledMemoryMb, limits.maxMemoryMb)
    if (sandboxes > limits.maxPooled)
      throw new BrambleError('invalid_request', {
        detail: `${sandboxes} sandboxes would be kept ready in all, the node keeps at most ${limits.maxPooled}`,
      })
    if (memoryMb > maxMemoryMb)
      throw new BrambleError('invalid_request', {
        detail: `the sandboxes kept ready would reserve ${memoryMb} MiB in all, the node allows ${maxMemoryMb} MiB`,
      })
  }

  const floorReached = (pool: Pool, signal?: AbortSignal): Promise<void> => {
    if (pool.ready.length >= pool.floor) return Promise.resolve()
    signal?.throwIfAborted()
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const watcher = { count: pool.floor, resolve, reject }
    const onAbort = (): void => reject(signal?.reason)
    signal?.addEventListener('abort', onAbort, { once: true })
    pool.watchers.add(watcher)
    return promise.finally(() => {
      pool.watchers.delete(watcher)
      signal?.removeEventListener('abort', onAbort)
    })
  }

  return {
    take(kind) {
      const pool = poolOf(kind)
      pool.demand.took(clock.monotonicMs())
      quiet.touch()
      const fresh = pool.ready.shift()
      notice({ type: 'pool', hit: fresh !== undefined, image: kind.image.digest, runtime: kind.runtime.name })
      if (fresh) {
        pool.hits++
        pool.failures = 0
        quiet.whenQuiet(refill, isScarce(pool) ? FILL_SCARCE_WITHIN_MS : FILL_WITHIN_MS)
        return fresh
      }
      pool.misses++
      const { promise, resolve, reject } = Promise.withResolvers<Fresh | undefined>()
      const taker: Taker = { turn: nextTurn++, resolve, reject }
      pool.takers.push(taker)
      pump()
      return {
        ready: promise,
        leave() {
          const at = pool.takers.indexOf(taker)
          if (at < 0) return
          pool.takers.splice(at, 1)
          resolve(undefined)
          pump()
        },
      }
    },
    returned(kind) {
      pools.get(nameOfKind(kind))?.demand.returned()
      quiet.touch()
    },
    async prewarm(kind, count, signal) {
      const pool = poolOf(kind)
      assertFloorFits(pool, count)
      pool.floor = count
      pool.retryAtMs = 0
      refill()
      await floorReached(pool, signal)
      return viewOf(pool)
    },
    keep(kind) {
      kept = poolOf(kind).name
      fillSoon()
    },
    pump,
    makeRoom: (memoryMb) => evictFor(memoryMb, undefined, Number.POSITIVE_INFINITY),
    shrink() {
      for (const pool of [...pools.values()]) {
        const target = targetOf(pool)
        while (pool.ready.length > target) giveUpOldest(pool)
        if (target === 0 && !isBusy(pool)) pools.delete(pool.name)
      }
      pump()
    },
    dropImage(digest) {
      let free = true
      for (const pool of [...pools.values()]) {
        if (pool.kind.image.digest !== digest) continue
        if (pool.takers.length > 0) {
          free = false
          continue
        }
        pool.retired = true
        for (const controller of pool.starts) controller.abort()
        forget(pool)
      }
      return free
    },
    list: () => [...pools.values()].map(viewOf),
    get pooled() {
      return pooled().count
    },
    close() {
      closed = true
      clearTimeout(retryTimer?.timer)
      if (starting === 0) idle.resolve()
      const error = new BrambleError('shutting_down', { detail: 'the engine is closing' })
      for (const pool of pools.values()) {
        for (const controller of pool.starts) controller.abort(error)
        for (const taker of pool.takers.splice(0)) taker.reject(error)
        for (const watcher of pool.watchers) watcher.reject(error)
        while (giveUpOldest(pool));
      }
      return idle.promise
    },
  }
}
