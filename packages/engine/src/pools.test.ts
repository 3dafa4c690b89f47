import { type FakeOptions, fake, makeFakeHost, type Runtime } from '@bramble/runtime'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createEndings } from './endings.ts'
import { emptyLoad } from './load.ts'
import type { EngineNotice } from './options.ts'
import { silentLog } from './options.ts'
import type { Fresh, Kind } from './pool.ts'
import { type Coming, createPools, isComing, type Pools, type PoolsDeps } from './pools.ts'
import { createQuiet } from './quiet.ts'
import { namedImage } from './testing.ts'

/** Makings that wait until the test lets them go on, one by one or all. */
const makeGate = () => {
  const waiting: (() => void)[] = []
  let open = false
  return {
    clock: {
      sleep: (_ms: number, { signal }: { signal: AbortSignal }) =>
        new Promise<void>((resolve, reject) => {
          if (open) resolve()
          else waiting.push(resolve)
          signal.addEventListener('abort', () => reject(signal.reason))
        }),
    },
    letOne: () => waiting.shift()?.(),
    letAll: () => {
      open = true
      for (const go of waiting.splice(0)) go()
    },
    get begun() {
      return waiting.length
    },
  }
}

const setUp = async (limits: Partial<PoolsDeps['limits']> = {}, options: FakeOptions = {}) => {
  const gate = makeGate()
  const host = makeFakeHost()
  const probe = await fake({ createMs: 1, ...options })({ host, clock: gate.clock })
  if (!probe.available) throw new Error(probe.reason)
  const { runtime } = probe
  const load = emptyLoad()
  let now = 1_000_000
  const clock = { now: () => now, monotonicMs: () => now }
  const notices: EngineNotice[] = []
  const notice = (one: EngineNotice) => notices.push(one)
  const quiet = createQuiet({ clock, quietMs: 0 })
  const endings = createEndings({
    load,
    maxDestroying: 2,
    maxPatient: 0,
    quiet,
    clock,
    log: silentLog,
    notice,
    onGone: () => pools.pump(),
  })
  const pools: Pools = createPools({
    limits: {
      maxPooled: 8,
      maxPooledMemoryMb: 1000,
      maxPools: 4,
      maxMemoryMb: 2000,
      maxStarting: 2,
      minReady: 0,
      startTimeoutMs: 60_000,
      ...limits,
    },
    load,
    endings,
    quiet,
    clock,
    log: silentLog,
    notice,
  })
  onTestFinished(async () => {
    gate.letAll()
    await pools.close()
    await endings.drain()
    quiet.close()
    expect(host.sandboxes.size).toBe(0)
    expect(load).toEqual({ boxesMb: 0, endingMb: 0, ending: 0 })
  })
  const done = (fresh: Fresh | undefined): void => {
    if (fresh) endings.bury(fresh.sandbox)
  }
  return { pools, runtime, gate, host, load, endings, notices, done, advance: (ms: number) => (now += ms) }
}

const kind = (runtime: Runtime, options: { image?: string; memoryMb?: number } = {}): Kind => ({
  image: namedImage(options.image ?? 'base'),
  runtime,
  resources: { cpus: 1, memoryMb: options.memoryMb ?? 100, diskMb: 10, pids: 10 },
})
const coming = (taken: Fresh | Coming): Coming => {
  if (!isComing(taken)) throw new Error('it is ready')
  return taken
}
const ready = (taken: Fresh | Coming): Fresh => {
  if (isComing(taken)) throw new Error('it is not ready')
  return taken
}
/** Lets promises and timers of no time go on until `condition` holds. */
const until = async (condition: () => boolean): Promise<void> => {
  while (!condition()) await new Promise(setImmediate)
}

describe('pools', () => {
  test('prewarm makes as many as asked, and a take is served from them', async () => {
    const { pools, runtime, gate, done } = await setUp()
    gate.letAll()
    expect(await pools.prewarm(kind(runtime), 3)).toMatchObject({ ready: 3, floor: 3, target: 3, hits: 0, misses: 0 })
    const fresh = ready(pools.take(kind(runtime)))
    await until(() => pools.list()[0]?.ready === 3)
    expect(pools.list()).toMatchObject([{ hits: 1, misses: 0, image: 'base', runtime: 'fake' }])
    done(fresh)
  })

  test('a floor of nothing gives up what is not in demand', async () => {
    const { pools, runtime, gate, host } = await setUp()
    gate.letAll()
    await pools.prewarm(kind(runtime), 3)
    expect(await pools.prewarm(kind(runtime), 0)).toMatchObject({ floor: 0 })
    pools.shrink()
    await until(() => host.sandboxes.size === 0)
    expect(pools.list()).toEqual([])
  })

  test('a miss is served by what is being made already: never two makings for one demand', async () => {
    const { pools, runtime, gate, notices, done } = await setUp({ maxStarting: 4 })
    const prewarmed = pools.prewarm(kind(runtime), 2)
    await until(() => gate.begun === 2)
    const first = coming(pools.take(kind(runtime)))
    await until(() => gate.begun === 2)
    gate.letOne()
    done(await first.ready)
    expect(notices.filter(({ type }) => type === 'sandboxMade')).toHaveLength(1)
    gate.letAll()
    expect(await prewarmed).toMatchObject({ ready: 2 })
  })

  test('misses are served in the order they came, across kinds, and before anything is made ahead', async () => {
    const { pools, runtime, gate, done } = await setUp({ maxStarting: 1 })
    const a = kind(runtime)
    const b = kind(runtime, { image: 'other' })
    const prewarmed = pools.prewarm(kind(runtime, { image: 'third' }), 1)
    const order: string[] = []
    const take = async (of: Kind, name: string) => {
      done(await coming(pools.take(of)).ready)
      order.push(name)
    }
    const all = [take(a, 'a1'), take(b, 'b1'), take(a, 'a2')]
    gate.letAll()
    await Promise.all(all)
    expect(order).toEqual(['a1', 'b1', 'a2'])
    await prewarmed
  })

  test('who leaves is owed nothing; what was begun for it is kept while there is demand', async () => {
    const { pools, runtime, gate } = await setUp()
    const taken = coming(pools.take(kind(runtime)))
    taken.leave()
    expect(await taken.ready).toBeUndefined()
    gate.letAll()
    await until(() => pools.list()[0]?.ready === 1)
  })

  test('demand makes a pool, and its want makes it shrink and go', async () => {
    const { pools, runtime, gate, host, done, advance } = await setUp()
    gate.letAll()
    const taken = [1, 2, 3].map(() => coming(pools.take(kind(runtime))))
    for (const { ready } of taken) {
      done(await ready)
      pools.returned(kind(runtime))
    }
    await until(() => pools.list()[0]?.ready === 3)
    advance(150_000)
    pools.shrink()
    expect(pools.list()[0]?.ready).toBe(1)
    advance(1_000_000)
    pools.shrink()
    expect(pools.list()).toEqual([])
    await until(() => host.sandboxes.size === 0)
  })

  test('are bounded in number: what is in demand displaces what is less so, but no floor', async () => {
    const { pools, runtime, gate, done, advance } = await setUp({ maxPooled: 2 })
    gate.letAll()
    await pools.prewarm(kind(runtime, { image: 'floor' }), 1)
    done(await coming(pools.take(kind(runtime, { image: 'old' }))).ready)
    await until(() => pools.pooled === 2)
    advance(1000)
    done(await coming(pools.take(kind(runtime, { image: 'new' }))).ready)
    const readyOf = (name: string) => pools.list().find(({ image }) => image === name)?.ready
    await until(() => readyOf('new') === 1)
    expect([readyOf('floor'), readyOf('old')]).toEqual([1, 0])
  })

  test('are bounded in memory, and a miss is served at the cost of what is pooled', async () => {
    const { pools, runtime, gate, load, done } = await setUp({ maxMemoryMb: 1000, maxPooledMemoryMb: 1000 })
    gate.letAll()
    await pools.prewarm(kind(runtime, { memoryMb: 300 }), 3)
    expect(load.boxesMb).toBe(900)
    const fresh = await coming(pools.take(kind(runtime, { image: 'big', memoryMb: 700 }))).ready
    expect(load.boxesMb).toBeLessThanOrEqual(1000)
    expect(fresh?.sandbox.config.resources.memoryMb).toBe(700)
    done(fresh)
  })

  test('a floor that could never be reached is refused', async () => {
    const { pools, runtime, gate } = await setUp({ maxPooled: 8, maxPooledMemoryMb: 1000 })
    gate.letAll()
    await expect(pools.prewarm(kind(runtime, { memoryMb: 10 }), 9)).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(pools.prewarm(kind(runtime, { memoryMb: 600 }), 2)).rejects.toMatchObject({ code: 'invalid_request' })
    await pools.prewarm(kind(runtime, { memoryMb: 600 }), 1)
    await expect(pools.prewarm(kind(runtime, { memoryMb: 500 }), 1)).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('a making that fails reaches who waits, each with its own; prewarm too', async () => {
    let asked = 0
    const { pools, runtime, gate } = await setUp({}, { createFails: () => new Error(`no ${++asked}`) })
    gate.letAll()
    const first = coming(pools.take(kind(runtime)))
    const second = coming(pools.take(kind(runtime)))
    await expect(first.ready).rejects.toThrow('no 1')
    await expect(second.ready).rejects.toThrow('no 2')
    await expect(pools.prewarm(kind(runtime), 1)).rejects.toThrow(/no \d/)
  })

  test('makings ahead of demand that fail are tried again later and later, while a miss is tried at once', async () => {
    let asked = 0
    const { pools, runtime, gate, advance } = await setUp({}, { createFails: () => new Error(`no ${++asked}`) })
    gate.letAll()
    await expect(pools.prewarm(kind(runtime), 1)).rejects.toThrow('no 1')
    for (let i = 0; i < 10; i++) {
      pools.pump()
      await new Promise(setImmediate)
    }
    expect(asked).toBe(1)
    await expect(coming(pools.take(kind(runtime))).ready).rejects.toThrow('no 2')
    advance(60_000)
    pools.pump()
    await until(() => asked === 3)
  })

  test('a pooled sandbox that ends by itself is dropped and replaced', async () => {
    const { pools, runtime, gate, host, advance, done } = await setUp()
    gate.letAll()
    await pools.prewarm(kind(runtime), 1)
    for (const box of [...host.sandboxes.values()]) box.end({ by: 'itself', detail: 'it was killed', oomKills: 0 })
    await until(() => pools.list()[0]?.ready === 0)
    advance(60_000)
    pools.pump()
    await until(() => pools.list()[0]?.ready === 1)
    const fresh = ready(pools.take(kind(runtime)))
    await fresh.sandbox.agent.ping()
    done(fresh)
  })

  test('a prewarm that is aborted rejects; the pool goes on', async () => {
    const { pools, runtime, gate } = await setUp()
    const controller = new AbortController()
    const prewarmed = pools.prewarm(kind(runtime), 1, controller.signal)
    controller.abort(new Error('enough'))
    await expect(prewarmed).rejects.toThrow('enough')
    gate.letAll()
    await until(() => pools.list()[0]?.ready === 1)
  })

  test('kinds past the limit displace the least demanded', async () => {
    const { pools, runtime, gate, done, advance } = await setUp({ maxPools: 2 })
    gate.letAll()
    for (const image of ['a', 'b', 'c']) {
      done(await coming(pools.take(kind(runtime, { image }))).ready)
      advance(10)
      await until(() => pools.list().some((pool) => pool.image === image && pool.ready === 1))
    }
    expect(pools.list().map(({ image }) => image)).toEqual(['b', 'c'])
  })

  test('closing rejects who waits, and ends what is being made', async () => {
    const { pools, runtime, gate, host } = await setUp()
    const taken = coming(pools.take(kind(runtime)))
    await until(() => gate.begun === 1)
    await Promise.all([expect(taken.ready).rejects.toMatchObject({ code: 'shutting_down' }), pools.close()])
    expect(host.sandboxes.size).toBe(0)
  })
})
