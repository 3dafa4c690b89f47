import { type BlobStore, memoryStore } from '@bramble/blobs'
import { expect, test } from 'vitest'
import type { Clock } from '../options.ts'
import { branch, make, merge, OWNER, openForTest, read, restore, type TestNodeOptions, take, write } from './testing.ts'

const HOUR_MS = 3_600_000

/** A node whose time is moved by hand. */
const open = async (options: TestNodeOptions = {}) => {
  let offsetMs = 0
  const clock: Clock = { now: () => Date.now() + offsetMs, monotonicMs: () => performance.now() + offsetMs }
  const blobs = memoryStore({ now: () => clock.now() })
  const node = await openForTest({ blobs, ...options, engine: { ...options.engine, clock } })
  const count = async () => {
    let blobs = 0
    for await (const _ of node.blobs.list()) blobs++
    return blobs
  }
  const pass = (ms: number): void => {
    offsetMs += ms
  }
  return { ...node, count, pass }
}
const { tenant } = OWNER

test('what a snapshot had goes when it is removed, and what others have stays', async () => {
  const { engine, count, pass } = await open({ limits: { maxSealBytes: 1 } })
  const box = await make(engine)
  await write(engine, box.id, '/shared', 'shared')
  const one = await take(engine, box.id, { memory: false })
  await write(engine, box.id, '/own', 'own')
  const two = await take(engine, box.id, { memory: false, name: 'two' })
  const both = await count()
  await engine.snapshots.remove(one.id, tenant)
  pass(25 * HOUR_MS)
  const collected = await engine.snapshots.collect()
  expect(collected.blobs).toBeGreaterThan(0)
  expect(collected.storedBytes).toBeGreaterThan(0)
  expect(collected.seals).toBe(2)
  expect(await count()).toBe(both - collected.blobs)
  const restored = await restore(engine, two.id)
  expect(await read(engine, restored.id, '/shared')).toBe('shared')
  expect(await read(engine, restored.id, '/own')).toBe('own')
})

test('the state of a removed snapshot goes with the next collection, and what it held in memory', async () => {
  const { engine, host } = await open()
  const box = await make(engine)
  const { id } = await take(engine, box.id, { memory: true })
  expect((await engine.snapshots.collect()).seals).toBe(0)
  await engine.snapshots.remove(id, tenant)
  expect((await engine.snapshots.collect()).seals).toBe(1)
  expect(host.seals.size).toBe(0)
})

test('who waits for a state from the store may leave; it comes for others', async () => {
  const store = memoryStore()
  const asked = Promise.withResolvers<void>()
  const answer = Promise.withResolvers<void>()
  let isFar = false
  const blobs: BlobStore = {
    ...store,
    get: async (...words) => {
      if (isFar) {
        asked.resolve()
        await answer.promise
      }
      return await store.get(...words)
    },
  }
  const { engine, host } = await open({ blobs, limits: { maxSealBytes: 1 } })
  const box = await make(engine)
  await write(engine, box.id, '/data', 'far')
  const { id } = await take(engine, box.id, { memory: false })
  await engine.snapshots.collect()
  expect(host.seals.size).toBe(0)
  isFar = true
  const reason = new Error('not wanted any more')
  const leaving = new AbortController()
  const left = restore(engine, id, {}, { ...OWNER, signal: leaving.signal })
  const stays = restore(engine, id)
  await asked.promise
  leaving.abort(reason)
  await expect(left).rejects.toBe(reason)
  answer.resolve()
  expect(await read(engine, (await stays).id, '/data')).toBe('far')
})

test('a snapshot past its time is not found, and goes', async () => {
  const { engine, count, pass } = await open()
  const box = await make(engine)
  await take(engine, box.id, { memory: false, name: 'short', ttlMs: HOUR_MS })
  pass(26 * HOUR_MS)
  await expect(engine.snapshots.get('short', tenant)).rejects.toMatchObject({ code: 'not_found' })
  expect((await engine.snapshots.list({ tenant, limit: 10 })).items).toEqual([])
  await engine.snapshots.collect()
  expect(await count()).toBe(0)
})

test('one that an instance is paused in stays, whatever its time', async () => {
  const { engine, pass } = await open()
  const box = await make(engine)
  await write(engine, box.id, '/data', 'kept')
  const { snapshotId = '' } = await engine.snapshots.pause(box.id, OWNER)
  await engine.snapshots.change(snapshotId, tenant, { ttlMs: HOUR_MS })
  pass(26 * HOUR_MS)
  await engine.snapshots.collect()
  expect(await read(engine, box.id, '/data')).toBe('kept')
})

test('what branches have in common stays while one of them does', async () => {
  const { engine, host, pass } = await open()
  const box = await make(engine)
  await write(engine, box.id, '/data', 'base')
  const { items } = await branch(engine, { parent: box.id, count: 2, memory: false })
  const [one = '', two = ''] = items.map(({ instanceId }) => instanceId)
  await write(engine, one, '/one', '1')
  pass(25 * HOUR_MS)
  expect((await engine.snapshots.collect()).seals).toBe(0)
  expect((await merge(engine, { branches: [one, two] })).conflicts).toEqual([])
  await engine.instances.remove(one, tenant)
  expect((await engine.snapshots.collect()).seals).toBe(0)
  expect((await engine.snapshots.branches({ tenant, limit: 10 })).items.map(({ instanceId }) => instanceId)).toEqual([
    two,
  ])
  await engine.instances.remove(two, tenant)
  expect((await engine.snapshots.collect()).seals).toBe(1)
  expect(host.seals.size).toBe(0)
  expect((await engine.snapshots.branches({ tenant, limit: 10 })).items).toEqual([])
})

test('states that have blobs make room for others, the least recently used first', async () => {
  const { engine, host } = await open({ limits: { maxSealBytes: 1 } })
  const box = await make(engine)
  await write(engine, box.id, '/data', 'kept')
  const snapshot = await take(engine, box.id, { memory: false })
  expect((await engine.snapshots.collect()).seals).toBe(1)
  expect(host.seals.size).toBe(0)
  const restored = await restore(engine, snapshot.id)
  expect(await read(engine, restored.id, '/data')).toBe('kept')
})

test('what others need stays: blobs of tenants', async () => {
  const { engine, count, pass } = await open()
  const { hash } = await engine.tenantBlobs.put(tenant, [Buffer.from('mine')], { ttlMs: 100 * HOUR_MS })
  pass(2 * HOUR_MS)
  await engine.snapshots.collect()
  expect(await count()).toBe(1)
  await engine.tenantBlobs.remove(tenant, hash)
  pass(2 * HOUR_MS)
  await engine.snapshots.collect()
  expect(await count()).toBe(0)
})

test('a branch that is gone is listed for a day', async () => {
  const { engine, pass } = await open()
  const box = await make(engine)
  const { items } = await branch(engine, { parent: box.id, count: 1, memory: false })
  const id = items[0]?.instanceId ?? ''
  await engine.instances.remove(id, tenant)
  await engine.snapshots.collect()
  const listed = async () =>
    (await engine.snapshots.branches({ tenant, limit: 10 })).items.map(({ instanceId }) => instanceId)
  expect(await listed()).toEqual([id])
  pass(25 * HOUR_MS)
  await engine.snapshots.collect()
  expect(await listed()).toEqual([])
})
