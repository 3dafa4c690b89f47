import { type BlobStore, memoryStore } from '@bramble/blobs'
import { type BlobHash, BrambleError, type ErrorCode, type ExecutionResult, resultHash } from '@bramble/protocol'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../options.ts'
import { sha256 } from '../outcome.ts'
import { resultName } from './names.ts'
import { openResultCache, type ResultCacheDeps } from './open-result-cache.ts'
import type { CacheLimits, CacheWish, ResultCache } from './result-cache.ts'
import { aResult, aWish, KEY } from './testing.ts'

const problem = (code: ErrorCode) => new BrambleError(code, { detail: 'in a test' })
const IMAGE = 'sha256:1'

const opened: ResultCache[] = []
afterEach(async () => {
  for (const cache of opened.splice(0)) await cache.close()
})

interface Options {
  readonly store?: BlobStore
  readonly node?: string
  readonly limits?: Partial<CacheLimits>
  readonly grant?: ResultCacheDeps['grant']
}

const openCache = async ({ store = memoryStore(), node = 'a', limits, grant = async () => {} }: Options = {}) => {
  const clock = { nowMs: 1_000_000, now: () => clock.nowMs, monotonicMs: () => clock.nowMs }
  const notices: unknown[] = []
  const cache = await openResultCache({
    ...{ store, node, clock, log: silentLog, grant, notice: (notice) => notices.push(notice) },
    // What a store that answers needs, on a host that is busy, too.
    limits: { storeWaitMs: 30_000, refreshMs: 3_600_000, ...limits },
  })
  opened.push(cache)
  let runs = 0
  const ask = (text: string, wish: Partial<CacheWish> = {}, more: Partial<ExecutionResult> = {}) =>
    cache.through(aWish(wish), async () => {
      runs++
      return aResult(text, more)
    })
  return { cache, clock, store, notices, ask, runs: () => runs }
}

/** An execution that ends when it is told to, or is aborted. */
const held = () => {
  const { promise, resolve, reject } = Promise.withResolvers<ExecutionResult>()
  const begun = Promise.withResolvers<AbortSignal>()
  const execute = (signal: AbortSignal): Promise<ExecutionResult> => {
    begun.resolve(signal)
    signal.addEventListener('abort', () => reject(signal.reason))
    return promise
  }
  return { execute, begun: begun.promise, resolve, reject }
}

describe('what is kept', () => {
  test('a success answers from memory, and from the store after a restart; not as who ran it had it', async () => {
    const { ask, store } = await openCache()
    const first = await ask('one')
    expect(first).toMatchObject({ source: 'executed', result: { cached: false, usage: { cpuMs: 7 } } })
    expect(await ask('two')).toMatchObject({
      source: 'memory',
      result: { stdout: 'one', cached: true, usage: { cpuMs: 0 } },
    })
    await opened[0]?.settled()
    expect(await (await openCache({ store })).ask('three')).toMatchObject({
      source: 'store',
      result: { stdout: 'one' },
    })
    expect(await (await openCache({ store, node: 'b' })).ask('four')).toMatchObject({ source: 'shared' })
  })

  test.each<[string, Partial<ExecutionResult>, Partial<CacheWish>]>([
    ['a failure', { status: 'failed', exitCode: 1 }, {}],
    ['what was killed', { status: 'failed', exitCode: 137, signal: 'SIGKILL' }, { failures: true }],
    ['what could not be started', { status: 'failed', exitCode: 126, message: 'no' }, { failures: true }],
    ['a timeout', { status: 'timeout', exitCode: null }, { failures: true }],
    ['want of memory', { status: 'oom', exitCode: null }, { failures: true }],
    ['cut output', { truncated: true }, {}],
    ['an output that could not be read', { outputs: { '/x': { error: 'unreadable' } } }, {}],
    ['what may be kept for no time', {}, { ttlMs: 0 }],
  ])('%s is not', async (_what, result, wish) => {
    const { ask, cache, store } = await openCache()
    for (let n = 0; n < 2; n++) expect((await ask(`${n}`, wish, result)).source).toBe('executed')
    await cache.settled()
    expect(await Array.fromAsync(store.names.list(''))).toEqual([])
  })

  test('a failure is where that was asked for', async () => {
    const { ask, cache, store } = await openCache()
    await ask('no', { failures: true }, { status: 'failed', exitCode: 3 })
    await cache.settled()
    const again = await openCache({ store })
    expect(await again.ask('', { failures: true })).toMatchObject({ source: 'store', result: { exitCode: 3 } })
  })

  test('what is too large is not; the least recently used of who has most goes first', async () => {
    const { ask, cache, notices } = await openCache({ limits: { maxResultBytes: 10_000, maxMemoryBytes: 60_000 } })
    const key = (n: number) => sha256(`${n}`)
    expect(cache.stats().entries).toBe(0)
    await ask('x'.repeat(10_001))
    expect(cache.stats().entries).toBe(0)
    await ask('small', { tenant: 'other', inputHash: key(9) }, { inputHash: key(9) })
    for (const n of [1, 2]) await ask('x'.repeat(9000), { inputHash: key(n) }, { inputHash: key(n) })
    cache.peek('acme', key(1))
    await ask('x'.repeat(9000), { inputHash: key(3) }, { inputHash: key(3) })
    expect([1, 2, 3].map((n) => cache.peek('acme', key(n)) !== undefined)).toEqual([true, false, true])
    expect(cache.peek('other', key(9))).toBeDefined()
    expect(notices).toContainEqual({ type: 'cacheRemoved', reason: 'evicted', count: 1 })
  })

  test('for as long as it was said, and no older than is asked', async () => {
    const { ask, clock } = await openCache()
    await ask('one', { ttlMs: 1000 })
    clock.nowMs += 999
    expect((await ask('two')).source).toBe('memory')
    clock.nowMs += 1
    expect((await ask('three')).source).toBe('executed')
    clock.nowMs += 50
    expect((await ask('four', { ttlMs: 50 })).source).toBe('executed')
    expect((await ask('five', { ttlMs: 50 })).result.stdout).toBe('four')
  })

  test('large texts and outputs come back from blobs as they were', async () => {
    const { ask, cache, store } = await openCache()
    const bytes = Buffer.alloc(100_000, 0xff)
    const sums = { stdoutSha256: sha256(bytes), stderrSha256: sha256(''), status: 'succeeded' as const, exitCode: 0 }
    const content = 'y'.repeat(50_000)
    const outputs = {
      '/out': { encoding: 'utf8' as const, content, sizeBytes: 50_000, sha256: sha256(content) },
      '/none': { error: 'not_found' as const },
    }
    const hash = resultHash({ ...sums, outputs: { '/out': sha256(content), '/none': 'not_found' } }, sha256)
    const stdout = bytes.toString('base64')
    await ask('', {}, { stdout, encoding: 'base64', outputs, resultHash: hash })
    await cache.settled()
    expect((await Array.fromAsync(cache.roots())).sort()).toEqual([sha256(bytes), sha256(content)].sort())
    const { source, result } = await (await openCache({ store })).ask('')
    expect(source).toBe('store')
    expect(result).toMatchObject({ stdout, encoding: 'base64', outputs, resultHash: hash })
  })
})

describe('equal ones at once', () => {
  test('run once; those who wait get what came, whatever its exit code', async () => {
    const { cache } = await openCache()
    const run = held()
    const first = cache.through(aWish(), run.execute)
    await run.begun
    expect(cache.running('acme', KEY)).toBe(true)
    const others = [1, 2, 3].map(() => cache.through(aWish(), () => Promise.reject(new Error('a second run'))))
    run.resolve(aResult('shared', { status: 'failed', exitCode: 4 }))
    expect(await first).toMatchObject({ source: 'executed', result: { cached: false } })
    for (const other of others)
      expect(await other).toMatchObject({ source: 'joined', result: { stdout: 'shared', cached: true } })
    expect(cache.stats('acme')).toMatchObject({ misses: 1, joined: 3, hits: 0 })
  })

  test('go on when who began them leaves, and end when nobody waits', async () => {
    const { cache } = await openCache()
    const run = held()
    const leader = new AbortController()
    const follower = new AbortController()
    const first = cache.through(aWish({ signal: leader.signal }), run.execute)
    const signal = await run.begun
    const second = cache.through(aWish({ signal: follower.signal }), run.execute)
    const third = cache.through(aWish(), run.execute)
    leader.abort(problem('cancelled'))
    follower.abort(problem('cancelled'))
    await expect(first).rejects.toMatchObject({ code: 'cancelled' })
    await expect(second).rejects.toMatchObject({ code: 'cancelled' })
    expect(signal.aborted).toBe(false)
    run.resolve(aResult('for the third'))
    expect(await third).toMatchObject({ source: 'joined', result: { stdout: 'for the third' } })

    const alone = held()
    const last = new AbortController()
    const only = cache.through(aWish({ inputHash: sha256('other'), signal: last.signal }), alone.execute)
    const itsSignal = await alone.begun
    last.abort(problem('cancelled'))
    await expect(only).rejects.toMatchObject({ code: 'cancelled' })
    expect(itsSignal.aborted).toBe(true)
    expect(cache.running('acme', sha256('other'))).toBe(false)
  })

  test('that throw, throw for who began them alone; the next one runs', async () => {
    const { cache } = await openCache()
    const run = held()
    const first = cache.through(aWish(), run.execute)
    await run.begun
    const second = cache.through(aWish(), async () => aResult('second'))
    run.reject(problem('queue_full'))
    await expect(first).rejects.toMatchObject({ code: 'queue_full' })
    expect(await second).toMatchObject({ source: 'executed', result: { stdout: 'second' } })
  })

  test('of different tenants are different', async () => {
    const { cache } = await openCache()
    const run = held()
    const first = cache.through(aWish(), run.execute)
    await run.begun
    const other = cache.through(aWish({ tenant: 'other' }), async () => aResult('mine'))
    expect(await other).toMatchObject({ source: 'executed', result: { stdout: 'mine' } })
    run.resolve(aResult('theirs'))
    await first
  })
})

describe('forgetting', () => {
  test.each([
    [{ key: KEY }, 1],
    [{ image: 'base' }, 1],
    [{ image: 'name-of-it', imageDigest: IMAGE }, 1],
    [{ label: 'job' }, 1],
    [{ label: 'job=nightly' }, 1],
    [{ all: true }, 1],
    [{ key: sha256('other') as BlobHash }, 0],
    [{ label: 'job=daily' }, 0],
    [{ image: 'other' }, 0],
    [{ image: 'base', label: 'job=daily' }, 0],
  ] as const)('%j forgets %i', async (what, count) => {
    const { ask, cache, store } = await openCache()
    await ask('one')
    await cache.settled()
    expect(await cache.invalidate('other', what)).toBe(0)
    expect(await cache.invalidate('acme', what)).toBe(count)
    expect((await ask('two')).source).toBe(count === 1 ? 'executed' : 'memory')
    expect((await (await openCache({ store, node: 'b' })).ask('three')).source).toBe('shared')
  })

  test('what runs meanwhile is for those who wait, and not kept', async () => {
    const { cache, ask } = await openCache()
    const run = held()
    const first = cache.through(aWish(), run.execute)
    await run.begun
    const second = cache.through(aWish(), run.execute)
    await cache.invalidate('acme', { all: true })
    expect(cache.running('acme', KEY)).toBe(false)
    expect(await ask('after')).toMatchObject({ source: 'executed', result: { stdout: 'after' } })
    run.resolve(aResult('before'))
    expect((await first).result.stdout).toBe('before')
    expect((await second).result.stdout).toBe('before')
    expect((await ask('later')).result.stdout).toBe('after')
  })

  test('another node of the store sees it when it looks again; its older results count no more', async () => {
    const store = memoryStore()
    const one = await openCache({ store, node: 'one', limits: { refreshMs: 1000 } })
    const two = await openCache({ store, node: 'two', limits: { refreshMs: 1000 } })
    await one.ask('first')
    await one.cache.settled()
    expect((await two.ask('')).source).toBe('shared')
    await one.cache.invalidate('acme', { all: true })
    // It has not looked: what is in its memory answers.
    expect((await two.ask('')).source).toBe('memory')
    two.clock.nowMs += 1000
    // Another key is a miss, and so it looks.
    await two.ask('', { inputHash: sha256('other') }, { inputHash: sha256('other') })
    expect(await two.ask('second')).toMatchObject({ source: 'executed', result: { stdout: 'second' } })
    await two.cache.settled()
    expect((await (await openCache({ store })).ask('')).result.stdout).toBe('second')
  })

  test('what a node stores that had not heard of it is dead for the others', async () => {
    const store = memoryStore()
    const deaf = await openCache({ store, node: 'deaf' })
    await deaf.ask('', { inputHash: sha256('x') }, { inputHash: sha256('x') })
    await (await openCache({ store })).cache.invalidate('acme', { label: 'job' })
    await deaf.ask('not knowing')
    await deaf.cache.settled()
    expect((await (await openCache({ store })).ask('fresh')).source).toBe('executed')
  })

  test('many times leaves one word for all the old ones, which still holds', async () => {
    const store = memoryStore()
    const { cache, ask } = await openCache({ store, limits: { sweepEveryMs: 10 } })
    await ask('old')
    await cache.settled()
    const [name = ''] = await Array.fromAsync(store.names.list('results/'))
    const value = await store.names.get(name)
    for (let n = 0; n < 400; n++) await cache.invalidate('acme', { label: `l${n}` })
    await cache.invalidate('acme', { key: KEY })
    // A node that was away brings its copy back.
    if (value) await store.names.set(name, value)
    const words = async () => (await Array.fromAsync(store.names.list('invalidations/'))).length
    await expect.poll(words).toBeLessThan(300)
    expect((await (await openCache({ store })).ask('new')).source).toBe('executed')
  })
})

describe('a store that lies', () => {
  const name = resultName('acme', KEY)
  const kept = async (stdout = 'true') => {
    const { ask, cache, store } = await openCache()
    await ask(stdout)
    await cache.settled()
    return { store, value: JSON.parse(Buffer.from((await store.names.get(name)) ?? []).toString()) }
  }

  test.each<[string, (value: Record<string, unknown>) => unknown]>([
    ['about what came out', (value) => ({ ...value, stdout: { text: 'lies' } })],
    ['about the exit code', (value) => ({ ...value, exitCode: 1 })],
    ['about its tenant', (value) => ({ ...value, tenant: 'other' })],
    ['about its input', (value) => ({ ...value, inputHash: sha256('other') })],
    ['about a blob', (value) => ({ ...value, stdout: { blob: sha256('gone'), sizeBytes: 3 } })],
    ['with more than there is', (value) => ({ ...value, more: 1 })],
    ['with another version', (value) => ({ ...value, version: 2 })],
    ['with no JSON', () => 'half of'],
    ['with nothing', () => null],
  ])('%s is a miss, and what it had is replaced', async (_what, lie) => {
    const { store, value } = await kept()
    const told = lie(value)
    await store.names.set(name, Buffer.from(typeof told === 'string' ? told : JSON.stringify(told)))
    const { ask, cache, notices } = await openCache({ store })
    expect(await ask('new')).toMatchObject({ source: 'executed', result: { stdout: 'new' } })
    expect(notices).toContainEqual({ type: 'cacheRemoved', reason: 'damaged', count: 1 })
    await cache.settled()
    expect((await (await openCache({ store })).ask('')).result.stdout).toBe('new')
  })

  test('an invalidation that cannot be read forgets what was before it', async () => {
    const { store } = await kept()
    const at = String(2_000_000).padStart(16, '0')
    await store.names.set(`invalidations/acme/${at}-${'a'.repeat(16)}`, Buffer.from('???'))
    expect((await (await openCache({ store })).ask('new')).source).toBe('executed')
  })

  test('that fails, or answers nothing, costs a wait at first and no execution', async () => {
    const { store } = await kept()
    const broken = {
      ...store,
      names: { ...store.names, get: () => Promise.reject(problem('store_unavailable')) },
    }
    const silent = { ...store, names: { ...store.names, get: () => new Promise<undefined>(() => {}) } }
    for (const bad of [broken, silent]) {
      const { ask, notices } = await openCache({ store: bad, limits: { storeWaitMs: 5 } })
      for (let n = 0; n < 5; n++) {
        const inputHash = sha256(`${n}`)
        expect((await ask('ran', { inputHash }, { inputHash })).source).toBe('executed')
      }
      expect(notices).toContainEqual({ type: 'cacheTier', tier: 'store' })
    }
  })

  test('that cannot be written keeps results in memory', async () => {
    const { store } = await kept()
    const full = { ...store, names: { ...store.names, set: () => Promise.reject(problem('store_full')) } }
    const { ask, cache } = await openCache({ store: full })
    const inputHash = sha256('x')
    await ask('one', { inputHash }, { inputHash })
    await cache.settled()
    expect((await ask('two', { inputHash }, { inputHash })).source).toBe('memory')
    await expect(cache.invalidate('acme', { all: true })).rejects.toMatchObject({ code: 'store_full' })
    expect((await ask('three', { inputHash }, { inputHash })).source).toBe('executed')
  })

  test('has its outputs granted before anyone is given them', async () => {
    const store = memoryStore()
    const { hash } = await store.put(Buffer.from('large'))
    const outputs = { '/o': { blob: hash, sizeBytes: 5, sha256: hash } }
    const sums = { stdoutSha256: sha256('s'), stderrSha256: sha256(''), status: 'succeeded' as const, exitCode: 0 }
    const more = { outputs, resultHash: resultHash({ ...sums, outputs: { '/o': hash } }, sha256) }
    const { ask, cache } = await openCache({ store })
    await ask('s', { ttlMs: 5000 }, more)
    await cache.settled()
    const granted: unknown[] = []
    const other = await openCache({ store, node: 'b', grant: async (...args) => void granted.push(args) })
    expect(await other.ask('')).toMatchObject({ source: 'shared', result: { outputs } })
    expect(granted).toEqual([['acme', [{ hash, sizeBytes: 5 }], 1_005_000]])
    await store.remove(hash)
    expect((await (await openCache({ store })).ask('s')).source).toBe('executed')
  })
})

test('a sweep removes what is over, what was invalidated, and the oldest past the bound', async () => {
  const store = memoryStore()
  const { ask, clock, cache } = await openCache({ store, limits: { sweepEveryMs: 5, maxStoredResults: 2 } })
  const put = async (n: number, ttlMs?: number) => {
    const inputHash = sha256(`${n}`)
    await ask(`${n}`, { inputHash, ...(ttlMs !== undefined && { ttlMs }) }, { inputHash })
    await cache.settled()
    clock.nowMs += 10
  }
  await put(1, 5)
  for (const n of [2, 3, 4]) await put(n)
  await store.names.set('results/acme/nothing', Buffer.from('{}'))
  const left = async () => await Array.fromAsync(store.names.list('results/'))
  await expect.poll(left).toEqual([3, 4].map((n) => resultName('acme', sha256(`${n}`))).sort())
})
