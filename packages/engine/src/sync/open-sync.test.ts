import { createHash } from 'node:crypto'
import type { BlobStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { silentLog } from '../options.ts'
import { memoryImages } from '../testing.ts'
import { openSync, type Sync, type SyncLimits } from './open-sync.ts'
import { newDirectory, openNodeStore, useObjectStore } from './testing.ts'

const objectStore = useObjectStore()

interface Node {
  readonly store: BlobStore
  readonly sync: Sync
  readonly state: { idle: boolean }
}

const openNode = async (url: string, node: string, limits: Partial<SyncLimits> = {}): Promise<Node> => {
  const store = await openNodeStore(url)
  const state = { idle: true }
  const stagingDirectory = await newDirectory()
  const deps = { blobs: store, images: memoryImages(), node, log: silentLog, stagingDirectory, limits, roots: noRoots }
  const sync = openSync({ ...deps, isIdle: () => state.idle })
  onTestFinished(() => sync.close())
  return { store, sync, state }
}

async function* noRoots(): AsyncGenerator<BlobHash> {}

const bytes = (size: number, seed: number): Buffer => {
  const parts: Buffer[] = []
  for (let i = 0; parts.length * 32 < size; i++) parts.push(createHash('sha256').update(`${seed} ${i}`).digest())
  return Buffer.concat(parts).subarray(0, size)
}
const drain = async (store: BlobStore, hash: BlobHash): Promise<void> => {
  for await (const _piece of await store.get(hash));
}
const isHere = (store: BlobStore, hash: BlobHash): Promise<boolean> | undefined => store.lower?.isLocal(hash)

test('what one node uses, another has before it asks', async (context) => {
  const url = await objectStore(context)
  const [one, other] = [await openNode(url, 'one'), await openNode(url, 'other')]
  const used = await one.sync.blobs.put(bytes(5000, 1))
  const unused = await one.sync.blobs.put(bytes(5000, 2))
  await drain(one.sync.blobs, used.hash)
  await one.sync.blobs.names.set('results/acme/1', Buffer.from('a result'))
  await one.sync.blobs.names.set('snapshots/acme/1', Buffer.from('no result'))
  await one.sync.round()
  await one.store.settled()

  expect(await other.sync.round()).toBeGreaterThan(5000)
  expect(await isHere(other.store, used.hash)).toBe(true)
  expect(await isHere(other.store, unused.hash)).toBe(false)
  const local = { reach: 'local' } as const
  expect(Buffer.from((await other.store.names.get('results/acme/1', local)) ?? []).toString()).toBe('a result')
  expect(await other.store.names.get('snapshots/acme/1', local)).toBeUndefined()
  // Nothing is left to do.
  expect(await other.sync.round()).toBe(0)
})

test('a node that starts warms itself, with what it used before, too', async (context) => {
  const url = await objectStore(context)
  const one = await openNode(url, 'one')
  const { hash } = await one.sync.blobs.put(bytes(5000, 1))
  await drain(one.sync.blobs, hash)
  await one.sync.round()
  await one.store.settled()
  const late = await openNode(url, 'late', { syncEveryMs: 3_600_000 })
  late.sync.start()
  await expect.poll(() => isHere(late.store, hash), { timeout: 20_000 }).toBe(true)
})

test('a node that has work fetches nothing, and one fetches no more than it may', async (context) => {
  const url = await objectStore(context)
  const one = await openNode(url, 'one')
  const hashes: BlobHash[] = []
  for (let i = 0; i < 6; i++) {
    const { hash } = await one.sync.blobs.put(bytes(10_000, i))
    hashes.push(hash)
    await drain(one.sync.blobs, hash)
  }
  await one.sync.round()
  await one.store.settled()
  const other = await openNode(url, 'other', { maxPrefetchBytes: 25_000 })
  other.state.idle = false
  expect(await other.sync.round()).toBe(0)
  other.state.idle = true
  expect(await other.sync.round()).toBeGreaterThan(20_000)
  const here = await Promise.all(hashes.map((hash) => isHere(other.store, hash)))
  expect(here.filter(Boolean)).toHaveLength(3)
  expect(await other.sync.round()).toBe(0)
})

test('announcements that are none are passed over', async (context) => {
  const url = await objectStore(context)
  const [one, other] = [await openNode(url, 'one'), await openNode(url, 'other')]
  await one.store.names.set('popular/hostile', Buffer.from('{"version":1,"blobs":[["../../etc",1]]}'))
  await one.store.names.set('popular/empty', Buffer.alloc(0))
  const { hash } = await one.sync.blobs.put(bytes(500, 1))
  await drain(one.sync.blobs, hash)
  await one.sync.round()
  await one.store.settled()
  await other.sync.round()
  expect(await isHere(other.store, hash)).toBe(true)
})
