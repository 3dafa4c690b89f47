import { hash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { describe, expect, onTestFinished, type TestContext, test } from 'vitest'
import { collect } from '../collect/collect.ts'
import { fsStore } from '../fs/fs-store.ts'
import { s3Store } from '../s3/s3-store.ts'
import { parseObjectStoreUrl } from '../s3/s3-url.ts'
import { absentHash, bytesOf, hashOf, listOf, noise, text } from '../testing/bytes.ts'
import { blobKeyOf, damageObject } from '../testing/damage-object.ts'
import { type Fault, type FaultProxy, openFaultProxy } from '../testing/fault-proxy.ts'
import { useS3Server } from '../testing/s3-subject.ts'
import type { TierEvent } from './context.ts'
import { type TieredStore, type TieredStoreOptions, tieredStore } from './tiered-store.ts'

const MiB = 1024 * 1024
const server = useS3Server()

interface Node {
  readonly store: TieredStore
  readonly directory: string
  readonly events: TierEvent[]
  /** Resolves with the next event of that kind, or one that has come already. */
  event(kind: TierEvent['kind']): Promise<TierEvent>
}

interface Cluster {
  readonly proxy: FaultProxy
  readonly bucket: string
  /** `patienceMs`: how long a request may take: short for what hangs, and else longer than a busy host needs. */
  open(
    options?: Partial<TieredStoreOptions> & { at?: string; maxBytes?: number; patienceMs?: number | undefined },
  ): Promise<Node>
  damageShared(hash: BlobHash): Promise<void>
  damageName(name: string): Promise<void>
  damageLocal(node: Node, hash: BlobHash): Promise<void>
}

/** Nodes of one object store, with a proxy before it that all of them use. */
const cluster = async (context: TestContext): Promise<Cluster> => {
  const real = server(context)
  const bucket = await real.newBucket()
  const proxy = await openFaultProxy(real.endpoint)
  const location = parseObjectStoreUrl(real.url(bucket, proxy.endpoint), {})
  const stores: TieredStore[] = []
  const folders: string[] = []
  onTestFinished(async () => {
    await proxy.up()
    for (const store of stores) await store.close()
    for (const folder of folders) await rm(folder, { recursive: true, force: true })
    await proxy.close()
  })
  return {
    proxy,
    bucket,
    open: async ({ at, maxBytes, patienceMs = 20_000, ...options } = {}) => {
      const directory = at ?? (await mkdtemp(join(tmpdir(), 'bramble-tiers-')))
      if (at === undefined) folders.push(directory)
      const events: TierEvent[] = []
      const waiting = new Map<string, PromiseWithResolvers<TierEvent>>()
      const opened: { store?: TieredStore } = {}
      const limits = { idleMs: patienceMs, requestMs: patienceMs, attempts: 2, pauseMs: 5 }
      const local = await fsStore({
        directory,
        maxBytes,
        evictable: async (hash) => (await opened.store?.isEvictable(hash)) ?? false,
      })
      const store = await tieredStore({
        local,
        shared: s3Store({ location, limits }),
        directory: join(directory, 'tier'),
        firstPauseMs: 20,
        answerMs: patienceMs,
        nameFreshMs: 0,
        observe: (event) => {
          events.push(event)
          waiting.get(event.kind)?.resolve(event)
          waiting.delete(event.kind)
        },
        ...options,
      })
      opened.store = store
      stores.push(store)
      return {
        store,
        directory,
        events,
        event: async (kind) => {
          const seen = events.find((event) => event.kind === kind)
          if (seen) return seen
          const next = waiting.get(kind) ?? Promise.withResolvers<TierEvent>()
          waiting.set(kind, next)
          return next.promise
        },
      }
    },
    damageShared: (hash) => damageObject(real.client(), bucket, blobKeyOf(hash)),
    damageName: (name) => damageObject(real.client(), bucket, `nodes/names/${name}!`),
    damageLocal: async ({ directory }, hash) => {
      const path = join(directory, 'blobs', hash.slice(0, 2), hash)
      const bytes = await readFile(path)
      bytes.writeUInt8(bytes.readUInt8(bytes.length >> 1) ^ 1, bytes.length >> 1)
      await writeFile(path, bytes)
    },
  }
}

const read = async (store: TieredStore, hash: BlobHash): Promise<Buffer> => bytesOf(await store.get(hash))
const named = async (store: TieredStore, name: string): Promise<string> =>
  Buffer.from((await store.names.get(name)) ?? 'nothing').toString()
const unavailable = { code: 'store_unavailable', retryable: true }

describe('two nodes', () => {
  test('what one puts and names, the other has', async (context) => {
    const { open } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const blobs = [text(900), noise(9 * MiB), text(3 * MiB)]
    for (const bytes of blobs) await one.store.put(bytes, { temperature: 'cold' })
    await one.store.names.set('results/a', Buffer.from('first'))
    await one.store.settled()
    expect(await listOf(other.store.names.list('results/'))).toEqual(['results/a'])
    expect(await named(other.store, 'results/a')).toBe('first')
    for (const bytes of blobs) {
      const hash = hashOf(bytes)
      expect(await other.store.lower.isLocal(hash)).toBe(false)
      expect((await other.store.stat(hash))?.sizeBytes).toBe(bytes.length)
      const part = await other.store.get(hash, { range: { start: 7, end: 700 } })
      expect((await bytesOf(part)).equals(bytes.subarray(7, 700))).toBe(true)
      expect(await other.store.lower.isLocal(hash)).toBe(true)
      expect((await read(other.store, hash)).equals(bytes)).toBe(true)
    }
    await one.store.names.set('results/a', Buffer.from('second'))
    await one.store.settled()
    expect(await named(other.store, 'results/a')).toBe('second')
    await other.store.names.remove('results/a')
    await other.store.settled()
    expect(await one.store.names.get('results/a')).toBeUndefined()
    expect(await listOf(one.store.names.list(''))).toEqual([])
  })

  test('a name comes after the blobs that were put before it', async (context) => {
    const { open, proxy } = await cluster(context)
    const one = await open()
    await one.store.settled()
    const requests = proxy.requests.length
    const put = noise(12 * MiB)
    await one.store.put(put)
    await one.store.put(text(100))
    await one.store.names.set('after', Buffer.from('them'))
    await one.store.settled()
    const writes = proxy.requests.slice(requests).filter(({ method }) => method === 'PUT' || method === 'POST')
    expect(writes.at(-1)?.path).toContain('names/after')
  })

  test('a lease holds what has to be fetched', async (context) => {
    const { open } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const { hash } = await one.store.put(text(900))
    await one.store.settled()
    await using lease = await other.store.leases.acquire()
    await lease.hold([hash])
    expect(await other.store.lower.isLocal(hash)).toBe(true)
    expect(await listOf(other.store.leases.held())).toEqual([hash])
    await expect(lease.hold([absentHash])).rejects.toMatchObject({ code: 'blob_not_found' })
  })

  test('what one collects, the other still has', async (context) => {
    const { open } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const { hash } = await one.store.put(text(900))
    await one.store.settled()
    const gone = await collect(one.store, [], { now: () => Date.now() + 10 * 3_600_000 })
    expect(gone.removedBlobs).toBe(1)
    expect(await one.store.lower.isLocal(hash)).toBe(false)
    expect((await read(other.store, hash)).equals(text(900))).toBe(true)
    await other.store.remove(hash)
    await other.store.settled()
    await expect(one.store.get(hash)).rejects.toMatchObject({ code: 'blob_not_found' })
  })

  test('a node that was there before its object store brings all that it has', async (context) => {
    const { open } = await cluster(context)
    const directory = await mkdtemp(join(tmpdir(), 'bramble-tiers-'))
    onTestFinished(() => rm(directory, { recursive: true, force: true }))
    const before = await fsStore({ directory })
    const { hash } = await before.put(text(900))
    await before.names.set('kept', Buffer.from('here'))
    await before.close()
    const [one, other] = [await open({ at: directory }), await open()]
    await one.store.settled()
    expect((await read(other.store, hash)).equals(text(900))).toBe(true)
    expect(await named(other.store, 'kept')).toBe('here')
    expect(await named(one.store, 'kept')).toBe('here')
  })

  test('what the object store has makes room here', async (context) => {
    const { open } = await cluster(context)
    const one = await open({ maxBytes: 100_000 })
    const blobs = Array.from({ length: 30 }, (_, i) => noise(10_000, i))
    for (const bytes of blobs) {
      await one.store.put(bytes)
      await one.store.settled()
    }
    expect((await listOf(one.store.list())).length).toBeLessThan(11)
    for (const bytes of blobs) expect((await read(one.store, hashOf(bytes))).equals(bytes)).toBe(true)
  })
})

describe('an object store that fails', () => {
  const faults: Record<string, Fault | undefined> = {
    down: undefined,
    hanging: { kind: 'hang' },
    'answering 500': { kind: 'status', status: 500, code: 'InternalError' },
    'answering 503': { kind: 'status', status: 503, code: 'SlowDown' },
    'answering 403': { kind: 'status', status: 403, code: 'AccessDenied' },
  }
  for (const [name, fault] of Object.entries(faults))
    test(`${name}: what is here goes on, the rest is told at once, and all is brought over in the end`, async (context) => {
      const { open, proxy } = await cluster(context)
      const patienceMs = fault?.kind === 'hang' ? 1000 : undefined
      const [one, other] = [await open({ patienceMs }), await open()]
      const there = await other.store.put(text(700))
      await other.store.names.set('theirs', Buffer.from('1'))
      await one.store.settled()
      await other.store.settled()
      if (fault) proxy.fault = () => fault
      else await proxy.down()

      const here = await one.store.put(text(900))
      await one.store.names.set('mine', Buffer.from('2'))
      await one.event('unavailable')
      expect((await read(one.store, here.hash)).equals(text(900))).toBe(true)
      expect(await named(one.store, 'mine')).toBe('2')
      // The first who needs it finds out, and nobody waits after that.
      await expect(one.store.get(there.hash)).rejects.toMatchObject(unavailable)
      const asked = proxy.requests.length
      await expect(one.store.get(there.hash)).rejects.toMatchObject({
        ...unavailable,
        retryAfterMs: expect.any(Number),
      })
      await expect(one.store.stat(there.hash)).rejects.toMatchObject(unavailable)
      await expect(one.store.names.get('theirs')).rejects.toMatchObject(unavailable)
      await expect(listOf(one.store.names.list(''))).rejects.toMatchObject(unavailable)
      expect(await listOf(one.store.names.list('', { reach: 'local' }))).toEqual(['mine'])
      expect(proxy.requests.length - asked).toBeLessThan(8)
      expect(await one.store.stats()).toMatchObject({ pendingUploads: 2, lowerTier: { available: false } })

      proxy.fault = undefined
      await proxy.up()
      await one.store.settled()
      await one.event('available')
      await expect.poll(() => one.store.lower.state, { timeout: 20_000 }).toEqual({ available: true })
      expect(await one.store.stats()).toMatchObject({ pendingUploads: 0, lowerTier: { available: true } })
      await expect
        .poll(async () => (await read(other.store, here.hash)).equals(text(900)), { timeout: 20_000 })
        .toBe(true)
      expect(await named(other.store, 'mine')).toBe('2')
    })

  test('slow: everything comes, late', async (context) => {
    const { open, proxy } = await cluster(context)
    const [one, other] = [await open(), await open()]
    proxy.fault = () => ({ kind: 'slow', delayMs: 100 })
    const { hash } = await one.store.put(noise(2 * MiB))
    await one.store.settled()
    expect((await read(other.store, hash)).equals(noise(2 * MiB))).toBe(true)
  })

  test('one blob that cannot be uploaded holds up nothing but itself', async (context) => {
    const { open, proxy } = await cluster(context)
    const one = await open()
    await one.store.settled()
    const poisoned = hash('sha256', text(900))
    proxy.fault = ({ method, path }) =>
      method === 'PUT' && path.includes(poisoned) ? { kind: 'status', status: 403, code: 'No' } : undefined
    const poison = await one.store.put(text(900))
    const again = await one.store.put(text(901))
    await one.store.remove(poison.hash)
    await one.store.put(text(900))
    await one.store.names.set('after', Buffer.from('it'))
    const other = await open()
    await expect.poll(async () => other.store.names.get('after'), { timeout: 30_000, interval: 50 }).toBeDefined()
    // What has arrived is there a moment before the queue knows that it has.
    await expect.poll(async () => (await one.store.stats()).pendingUploads, { timeout: 30_000, interval: 50 }).toBe(1)
    expect(await other.store.stat(again.hash)).toBeDefined()
    proxy.fault = undefined
    await one.store.settled()
    expect(await other.store.stat(poison.hash)).toBeDefined()
  })

  test('closed while it hangs, the rest is uploaded by the next', async (context) => {
    const { open, proxy } = await cluster(context)
    const one = await open()
    await one.store.settled()
    proxy.fault = () => ({ kind: 'hang' })
    const { hash } = await one.store.put(text(900))
    await one.store.names.set('name', Buffer.from('value'))
    await one.store.names.remove('name')
    await one.store.close()
    proxy.fault = undefined
    const [next, other] = [await open({ at: one.directory }), await open()]
    await next.store.settled()
    expect((await read(other.store, hash)).equals(text(900))).toBe(true)
    expect(await other.store.names.get('name')).toBeUndefined()
  })
})

describe('damage', () => {
  test('here is healed from there, also in the middle of reading', async (context) => {
    const { open, damageLocal } = await cluster(context)
    const one = await open()
    for (const bytes of [text(900), noise(3 * MiB)]) {
      const { hash } = await one.store.put(bytes)
      await one.store.settled()
      await damageLocal(one, hash)
      expect((await read(one.store, hash)).equals(bytes)).toBe(true)
      expect(one.events).toContainEqual({ kind: 'healed', tier: 'local', what: hash })
      await one.store.close()
      const again = await fsStore({ directory: one.directory })
      expect((await bytesOf(await again.get(hash))).equals(bytes)).toBe(true)
      await again.close()
      Object.assign(one, await open({ at: one.directory }))
    }
    expect(await readdir(join(one.directory, 'quarantine'))).toHaveLength(2)
  })

  test('there is found by who reads it there, named with its tier, and healed by who has it', async (context) => {
    const { open, damageShared } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const { hash } = await one.store.put(noise(3 * MiB))
    await one.store.settled()
    await damageShared(hash)
    await expect(read(other.store, hash)).rejects.toMatchObject({
      code: 'blob_corrupt',
      detail: expect.stringMatching(`${hash} in s3`),
    })
    const { healedShared, lost } = await one.store.lower.verify()
    expect([healedShared, lost]).toEqual([[hash], []])
    await one.store.settled()
    expect((await read(other.store, hash)).equals(noise(3 * MiB))).toBe(true)
    expect(await one.store.lower.verify()).toEqual({ blobs: 1, healedLocal: [], healedShared: [], lost: [] })
  })

  test('of a name here is healed from there, and there from here', async (context) => {
    const { open, damageName } = await cluster(context)
    const one = await open({ nameFreshMs: 60_000 })
    await one.store.names.set('results/a', Buffer.from('value'))
    await one.store.settled()
    const file = join(one.directory, 'names/results/a~')
    await writeFile(file, 'damaged')
    expect(await named(one.store, 'results/a')).toBe('value')
    expect(await named(one.store, 'results/a')).toBe('value')
    const other = await open()
    await damageName('results/a')
    await expect(other.store.names.get('results/a')).rejects.toMatchObject({ code: 'blob_corrupt' })
    const again = await one.store.names.get('results/a', { reach: 'now' })
    expect(Buffer.from(again ?? []).toString()).toBe('value')
    await one.store.settled()
    expect(await named(other.store, 'results/a')).toBe('value')
  })

  test('on both sides is an error that says so, until it is put again', async (context) => {
    const { open, damageLocal, damageShared } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const { hash } = await one.store.put(text(5000))
    await one.store.settled()
    await damageShared(hash)
    await damageLocal(one, hash)
    expect((await one.store.lower.verify()).lost).toEqual([hash])
    await expect(read(one.store, hash)).rejects.toMatchObject({ code: 'blob_corrupt' })
    await one.store.put(text(5000))
    await one.store.settled()
    expect((await read(other.store, hash)).equals(text(5000))).toBe(true)
  })

  const lies: Record<string, Fault> = {
    'another bit': { kind: 'flip', at: 300, of: 'answer' },
    'fewer bytes': { kind: 'truncate', bytes: 300, silent: true },
  }
  for (const [name, fault] of Object.entries(lies))
    test(`of an answer (${name}) is not kept`, async (context) => {
      const { open, proxy } = await cluster(context)
      const [one, other] = [await open(), await open()]
      const { hash } = await one.store.put(noise(900))
      await one.store.settled()
      await other.store.settled()
      proxy.fault = ({ method }) => (method === 'GET' ? fault : undefined)
      const code = fault.kind === 'flip' ? 'blob_corrupt' : 'store_unavailable'
      await expect(read(other.store, hash)).rejects.toMatchObject({ code })
      expect(await other.store.lower.isLocal(hash)).toBe(false)
      proxy.fault = undefined
      await expect.poll(async () => (await read(other.store, hash)).equals(noise(900)), { timeout: 20_000 }).toBe(true)
    })

  test('the object of another blob is not taken for it', async (context) => {
    const { open, proxy, bucket } = await cluster(context)
    const [one, other] = [await open(), await open()]
    const mine = await one.store.put(noise(900))
    const theirs = await one.store.put(noise(900, 7))
    await one.store.settled()
    await other.store.settled()
    proxy.fault = () => ({ kind: 'other', path: `/${bucket}/${blobKeyOf(theirs.hash)}` })
    await expect(read(other.store, mine.hash)).rejects.toMatchObject({ code: 'blob_corrupt' })
    expect(await listOf(other.store.list())).toEqual([])
  })
})
