import { type BlobStore, parseObjectStoreUrl } from '@bramble/blobs'
import { s3Store } from '@bramble/blobs/s3'
import type { BlobHash } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { CONTEXT, openTestEngine, spec } from '../testing.ts'
import { collectShared } from './collect-shared.ts'
import { sharedRoots, shareRoots } from './share-roots.ts'
import { openNodeStore, useObjectStore } from './testing.ts'

const objectStore = useObjectStore()
const dayMs = 24 * 3_600_000

/** The object store as it is seen so much later: what is there is old. */
const later = (url: string, ms: number): BlobStore => {
  const store = s3Store({ location: parseObjectStoreUrl(url, {}) })
  onTestFinished(() => store.close())
  return {
    ...store,
    list: async function* (options) {
      for await (const blob of store.list(options)) yield { ...blob, touchedMs: blob.touchedMs - ms }
    },
    remove: (hash, options) =>
      store.remove(hash, { ...options, idleSinceMs: (options?.idleSinceMs ?? Number.NaN) + ms }),
  }
}

async function* of(...hashes: BlobHash[]): AsyncGenerator<BlobHash> {
  yield* hashes
}

test('what nodes told of stays, and what no name leads to goes when it is old', async (context) => {
  const url = await objectStore(context)
  const [one, other] = [await openNodeStore(url), await openNodeStore(url)]
  const put = async (store: BlobStore, text: string): Promise<BlobHash> => (await store.put(Buffer.from(text))).hash
  const mine = await put(one, 'of a tenant here')
  const theirs = await put(other, 'of a tenant there')
  const unused = await put(one, 'of nobody any more')
  await shareRoots(one, 'one', of(mine))
  await shareRoots(other, 'other', of(theirs))
  await one.settled()
  await other.settled()
  const options = { graceMs: dayMs, dryRun: false }

  expect((await collectShared(later(url, 0), options)).removedBlobs).toBe(0)
  const old = later(url, 2 * dayMs)
  expect((await collectShared(old, { ...options, dryRun: true })).removedBlobs).toBe(1)
  expect((await collectShared(old, options)).removedBlobs).toBe(1)
  expect(await old.stat(unused)).toBeUndefined()
  for (const hash of [mine, theirs]) expect(await old.stat(hash)).toBeDefined()
  // A node that gives one up says so.
  await shareRoots(one, 'one', of())
  await one.settled()
  await collectShared(old, options)
  expect(await old.stat(mine)).toBeUndefined()
  expect(await old.stat(theirs)).toBeDefined()
})

test('where what a node needs cannot be read, nothing goes', async (context) => {
  const url = await objectStore(context)
  const one = await openNodeStore(url)
  await one.put(Buffer.from('of nobody'))
  const { hash } = await one.put(Buffer.from('no list of hashes'))
  await one.names.set('roots/one', Buffer.from(hash))
  await one.settled()
  const old = later(url, 2 * dayMs)
  await expect(collectShared(old, { graceMs: dayMs, dryRun: false })).rejects.toThrow()
  let left = 0
  for await (const _blob of old.list()) left++
  expect(left).toBe(2)
})

test('roots of any number come as they were told', async (context) => {
  const url = await objectStore(context)
  const one = await openNodeStore(url)
  const hashes = Array.from({ length: 10_000 }, (_, i) => i.toString(16).padStart(64, '0') as BlobHash)
  await shareRoots(one, 'one', of(...hashes))
  const told: BlobHash[] = []
  for await (const hash of sharedRoots(one, 'roots/one')) told.push(hash)
  expect(told.slice(1)).toEqual(hashes)
})

test('what a result needs stays until the result is forgotten', async (context) => {
  const url = await objectStore(context)
  const blobs = await openNodeStore(url)
  await using node = await openTestEngine({ engine: { blobs } })
  const command = spec({ command: 'yes line | head -c 200000', mode: 'cached' })
  await node.engine.execute(command, CONTEXT).result
  const old = later(url, 2 * dayMs)
  const named = async (): Promise<number> => {
    await blobs.settled()
    let names = 0
    for await (const _name of old.names.list('results/')) names++
    return names
  }
  await expect.poll(named, { timeout: 20_000 }).toBe(1)
  const options = { graceMs: dayMs, dryRun: false }
  const kept = await collectShared(old, options)
  expect(kept.keptBlobs).toBeGreaterThan(0)
  await node.engine.cache.invalidate(CONTEXT.tenant, { all: true })
  await expect.poll(named, { timeout: 20_000 }).toBe(0)
  const { removedBlobs } = await collectShared(old, options)
  expect(removedBlobs).toBeGreaterThan(0)
})
