import type { Duplex } from 'node:stream'
import type { Exposure, InstanceLease } from '@bramble/engine'
import { BrambleError } from '@bramble/protocol'
import { Upstream } from './upstream.ts'

/** Connections to the apps of all instances: kept for the next request where the app allows it. */
export interface UpstreamPool {
  /**
   * A connection to the port, with no user. `fresh`: one that was idle for long may be closed by the app at this moment, so
   * that the request might be lost. Waits for a place, in order. Rejects as `InstanceLease.connect`; `queue_full`.
   */
  take(lease: InstanceLease, exposure: Exposure, options: TakeOptions): Upstream | Promise<Upstream>
  /** Gives it back for the next. */
  give(upstream: Upstream, exposure: Exposure): void
  /** Ends the idle connections to one port, or all there are. */
  drop(instanceId: string, port: number): void
  close(): void
}

export interface TakeOptions {
  readonly fresh: boolean
  /** Asked for only where it has to wait. */
  readonly signal: () => AbortSignal
}

export interface PoolLimits {
  /** Connections to one instance, idle ones included: each is a channel of its agent, which has 256. */
  readonly maxUpstreams: number
  /** Requests to one instance that wait for one. */
  readonly maxWaiting: number
  /** How long one is kept without a request: less than the five seconds that many servers keep theirs. */
  readonly idleMs: number
  /** Time to connect, resuming the sandbox included. */
  readonly connectTimeoutMs: number
}

export const POOL_LIMITS: PoolLimits = { maxUpstreams: 128, maxWaiting: 1024, idleMs: 4_000, connectTimeoutMs: 15_000 }

/** A connection that served this short a time ago is not about to be closed by any server. */
const FRESH_MS = 1_000

interface Port {
  readonly idle: Upstream[]
}

interface Place {
  readonly ports: Map<number, Port>
  open: number
  readonly waiting: (() => void)[]
}

export const upstreamPool = (limits: PoolLimits = POOL_LIMITS): UpstreamPool => {
  const places = new Map<string, Place>()
  let closed = false

  const placeOf = (id: string): Place => {
    let place = places.get(id)
    if (!place) {
      place = { ports: new Map(), open: 0, waiting: [] }
      places.set(id, place)
    }
    return place
  }

  const sweep = setInterval(() => {
    const before = performance.now() - limits.idleMs
    for (const [id, place] of places) {
      for (const { idle } of place.ports.values())
        for (const upstream of idle.filter(({ idleSince }) => idleSince < before)) upstream.destroy()
      if (place.open === 0 && place.waiting.length === 0) places.delete(id)
    }
  }, limits.idleMs / 2)
  sweep.unref()

  /** One connection less: whoever waits longest may make one. */
  const left = (place: Place): void => {
    place.open--
    place.waiting.shift()?.()
  }

  const open = async (
    place: Place,
    lease: InstanceLease,
    { port }: Exposure,
    signal: AbortSignal,
  ): Promise<Upstream> => {
    place.open++
    let stream: Duplex
    try {
      const timed = AbortSignal.any([signal, AbortSignal.timeout(limits.connectTimeoutMs)])
      stream = await lease.connect({ port, signal: timed })
      if (closed) stream.destroy()
    } catch (error) {
      left(place)
      if (signal.aborted || !(error instanceof Error && error.name === 'TimeoutError')) throw error
      throw new BrambleError('port_closed', { detail: `port ${port} did not answer in time`, cause: error })
    }
    const upstream: Upstream = new Upstream(stream, () => {
      const idle = place.ports.get(port)?.idle
      const at = idle?.indexOf(upstream) ?? -1
      if (at >= 0) idle?.splice(at, 1)
      left(place)
    })
    return upstream
  }

  /** Of another port of the instance, when it has no place left. */
  const closeAnIdle = (place: Place): boolean => {
    for (const { idle } of place.ports.values()) {
      const [oldest] = idle
      if (!oldest) continue
      oldest.destroy()
      return true
    }
    return false
  }

  const roomIn = (place: Place, signal: AbortSignal): Promise<void> => {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    if (place.waiting.length >= limits.maxWaiting)
      throw new BrambleError('queue_full', {
        detail: `${limits.maxWaiting} requests wait for ports of the instance`,
        retryAfterMs: 1000,
      })
    const abort = (): void => {
      const at = place.waiting.indexOf(resolve)
      if (at >= 0) place.waiting.splice(at, 1)
      // It was let in at the same time as it gave up.
      else place.waiting.shift()?.()
      reject(signal.reason)
    }
    signal.addEventListener('abort', abort, { once: true })
    place.waiting.push(resolve)
    return promise.finally(() => signal.removeEventListener('abort', abort))
  }

  const idleOf = (place: Place, { port }: Exposure, fresh: boolean): Upstream | undefined => {
    const idle = place.ports.get(port)?.idle
    // The one that served last is the least likely to be closed.
    const last = idle?.at(-1)
    if (idle === undefined || last === undefined) return undefined
    if (fresh && performance.now() - last.idleSince >= FRESH_MS) return undefined
    idle.pop()
    return last
  }

  const takeLater = async (
    place: Place,
    lease: InstanceLease,
    exposure: Exposure,
    { fresh, signal: signalOf }: TakeOptions,
  ): Promise<Upstream> => {
    const signal = signalOf()
    for (;;) {
      signal.throwIfAborted()
      if (place.open < limits.maxUpstreams || closeAnIdle(place)) return open(place, lease, exposure, signal)
      await roomIn(place, signal)
      const idle = idleOf(place, exposure, fresh)
      if (idle !== undefined) return idle
    }
  }

  return {
    take: (lease, exposure, options) => {
      const place = placeOf(exposure.instanceId)
      return idleOf(place, exposure, options.fresh) ?? takeLater(place, lease, exposure, options)
    },
    give: (upstream, { instanceId, port }) => {
      if (upstream.closed) return
      if (closed) return upstream.destroy()
      const place = placeOf(instanceId)
      let entry = place.ports.get(port)
      if (!entry) {
        entry = { idle: [] }
        place.ports.set(port, entry)
      }
      upstream.idleSince = performance.now()
      entry.idle.push(upstream)
      place.waiting.shift()?.()
    },
    drop: (instanceId, port) => {
      for (const upstream of [...(places.get(instanceId)?.ports.get(port)?.idle ?? [])]) upstream.destroy()
    },
    close: () => {
      closed = true
      clearInterval(sweep)
      for (const place of places.values())
        for (const { idle } of place.ports.values()) for (const upstream of [...idle]) upstream.destroy()
    },
  }
}
