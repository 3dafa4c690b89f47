import type { BlobHash } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { BlobStore } from '../blob-store.ts'
import { collect, memoryStore } from '../index.ts'
import { listOf, noise, text } from '../testing/bytes.ts'

const hour = 3_600_000

const open = async (count: number) => {
  const clock = { now: 1_700_000_000_000 }
  const now = (): number => clock.now
  const store = memoryStore({ now })
  const hashes: BlobHash[] = []
  for (let i = 0; i < count; i++) hashes.push((await store.put(noise(100 + i, i))).hash)
  clock.now += 2 * hour
  return { store, hashes, clock, now }
}

const left = async (store: BlobStore): Promise<BlobHash[]> =>
  (await listOf(store.list())).map(({ hash }) => hash).sort()

describe('a collection', () => {
  test('removes what nothing reaches, and says so', async () => {
    const { store, hashes, now } = await open(10)
    const roots = hashes.slice(0, 3)
    const removedStoredBytes = [3, 4, 5, 6, 7, 8, 9].reduce((sum, i) => sum + 100 + i, 0)
    const expected = { keptBlobs: 3, removedBlobs: 7, removedStoredBytes }
    expect(await collect(store, roots, { now, dryRun: true })).toEqual(expected)
    expect(await left(store)).toHaveLength(10)
    expect(await collect(store, roots, { now })).toEqual(expected)
    expect(await left(store)).toEqual([...roots].sort())
    expect(await collect(store, roots, { now })).toEqual({ keptBlobs: 3, removedBlobs: 0, removedStoredBytes: 0 })
  })

  test('leaves what is young', async () => {
    const { store, now, hashes } = await open(2)
    const young = await store.put(text(100))
    await collect(store, [], { now, graceMs: 3 * hour })
    expect(await left(store)).toHaveLength(3)
    await collect(store, [], { now })
    expect(await left(store)).toEqual([young.hash])
    expect(hashes).not.toContain(young.hash)
  })

  test('leaves what a lease holds: taken before, while it marks, while it sweeps', async () => {
    const { store, hashes, now } = await open(40)
    const lease = await store.leases.acquire()
    const [before, marking] = hashes
    if (!before || !marking) throw new Error('nothing was put')
    await lease.hold([before])
    const roots = async function* (): AsyncIterable<BlobHash> {
      await lease.hold([marking])
      yield* []
    }
    let sweeping: BlobHash | undefined
    const list: BlobStore['list'] = async function* (options) {
      for await (const listed of store.list(options)) {
        // The last that the sweep comes to, and the one it is at.
        if (!sweeping && listed.hash !== before && listed.hash !== marking) {
          sweeping = listed.hash
          await lease.hold([listed.hash])
        }
        yield listed
      }
    }
    await collect({ ...store, list }, roots(), { now })
    expect(await left(store)).toEqual([before, marking, sweeping].sort())
  })

  test('leaves what a lease held when it began, though it was let go while a root came to name it', async () => {
    const { store, hashes, clock, now } = await open(5)
    const lease = await store.leases.acquire({ ttlMs: 24 * hour })
    const [hash] = hashes
    if (!hash) throw new Error('nothing was put')
    await lease.hold([hash])
    clock.now += 2 * hour
    const roots = async function* (): AsyncIterable<BlobHash> {
      // The roots are read without the new one, which is made now: its lease is not needed any more.
      yield* []
      await lease.release()
    }
    await collect(store, roots(), { now })
    expect(await left(store)).toEqual([hash])
  })

  test('leaves what is put again while it sweeps', async () => {
    const { store, hashes, now } = await open(30)
    let again: BlobHash | undefined
    const list: BlobStore['list'] = async function* (options) {
      for await (const listed of store.list(options)) {
        const index = hashes.indexOf(listed.hash)
        if (!again && index > 0) again = (await store.put(noise(100 + index, index))).hash
        yield listed
      }
    }
    await collect({ ...store, list }, [], { now })
    expect(await left(store)).toEqual([again])
  })

  test('ends with the reason of its signal, and has removed nothing else', async () => {
    const { store, hashes, now } = await open(20)
    const abort = new AbortController()
    const roots = hashes.slice(0, 5)
    let removed = 0
    const remove: BlobStore['remove'] = async (hash, options) => {
      if (++removed === 4) abort.abort(new Error('enough'))
      return store.remove(hash, options)
    }
    await expect(collect({ ...store, remove }, roots, { now, signal: abort.signal })).rejects.toThrow('enough')
    expect(await left(store)).toEqual(expect.arrayContaining(roots))
    const stuck = async function* (): AsyncIterable<BlobHash> {
      await new Promise(() => undefined)
      yield* []
    }
    const later = new AbortController()
    const collecting = collect(store, stuck(), { now, signal: later.signal })
    later.abort(new Error('no patience'))
    await expect(collecting).rejects.toThrow('no patience')
  })

  test('removes nothing when the roots cannot be read', async () => {
    const { store, now } = await open(5)
    const broken = async function* (): AsyncIterable<BlobHash> {
      yield* []
      throw new Error('a manifest is missing')
    }
    await expect(collect(store, broken(), { now })).rejects.toThrow('a manifest is missing')
    expect(await left(store)).toHaveLength(5)
  })
})
