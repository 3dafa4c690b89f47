import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { memoryStore } from '@bramble/blobs'
import type { BlobHash } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { silentLog } from '../options.ts'
import { sha256 } from '../outcome.ts'
import { BLOB_MIGRATIONS, type BlobTables } from '../store/blob-tables.ts'
import { openDatabase } from '../store/open-database.ts'
import { openTenantBlobs } from './open-tenant-blobs.ts'

const openBlobs = async (directory?: string) => {
  const at = directory ?? (await mkdtemp(join(tmpdir(), 'bramble-blobs-')))
  if (directory === undefined) onTestFinished(() => rm(at, { recursive: true, force: true }))
  const store = memoryStore()
  const clock = { nowMs: 1_000_000, now: () => clock.nowMs, monotonicMs: () => clock.nowMs }
  const path = join(at, 'blobs.db')
  const db = await openDatabase<BlobTables>({ path, owner: 'blobs', migrations: BLOB_MIGRATIONS })
  const blobs = await openTenantBlobs({ db, store, clock, log: silentLog })
  onTestFinished(() => blobs.close())
  return { blobs, store, clock, directory: at }
}

const bytes = Buffer.from('some bytes')
const hash = sha256(bytes) as BlobHash
const ttlMs = 1000

test('a blob is the tenant’s until its time is over, which putting it again begins anew', async () => {
  const { blobs, clock } = await openBlobs()
  expect(await blobs.put('acme', bytes, { ttlMs })).toMatchObject({ hash, sizeBytes: 10, origin: 'put' })
  clock.nowMs += 999
  await blobs.put('acme', bytes, { ttlMs })
  clock.nowMs += 999
  expect(await blobs.stat('acme', hash)).toMatchObject({ hash })
  clock.nowMs += 1
  for (const asked of [blobs.stat('acme', hash), blobs.get('acme', hash), blobs.hold('acme', [hash])])
    await expect(asked).rejects.toMatchObject({ code: 'blob_not_found' })
  expect(await Array.fromAsync(blobs.roots())).toEqual([])
})

test('what was told survives the node; what expired meanwhile is forgotten', async () => {
  const { blobs, directory } = await openBlobs()
  await blobs.put('acme', bytes, { ttlMs })
  const again = await openBlobs(directory)
  expect(await again.blobs.stat('acme', hash)).toMatchObject({ hash })
})

test('a result that names it makes it last, never shorter', async () => {
  const { blobs, clock } = await openBlobs()
  await blobs.put('acme', bytes, { ttlMs })
  await blobs.grant('acme', [{ hash, sizeBytes: 10 }], clock.nowMs + 10)
  expect((await blobs.stat('acme', hash)).expiresAt).toBe(new Date(clock.nowMs + ttlMs).toISOString())
  await blobs.grant('acme', [{ hash, sizeBytes: 10 }], clock.nowMs + 5000)
  expect(await blobs.stat('acme', hash)).toMatchObject({ origin: 'put' })
  clock.nowMs += 4999
  expect(await blobs.stat('acme', hash)).toMatchObject({ hash })
})

test('a source that fails, is other than expected or is too much leaves nothing', async () => {
  const { blobs, store } = await openBlobs()
  const broken = async function* () {
    yield bytes
    throw new Error('the client went')
  }
  await expect(blobs.put('acme', broken(), { ttlMs })).rejects.toThrow('the client went')
  await expect(blobs.put('acme', bytes, { ttlMs, expect: sha256('') as BlobHash })).rejects.toMatchObject({
    code: 'blob_corrupt',
  })
  const much = async function* () {
    for (let n = 0; n < 3; n++) yield Buffer.alloc(512 * 1024, n)
  }
  const quota = { storageMb: 1 }
  await expect(blobs.put('acme', much(), { ttlMs, quota })).rejects.toMatchObject({ code: 'quota_exceeded' })
  await expect(blobs.put('acme', much(), { ttlMs, quota, sizeBytes: 2 ** 30 })).rejects.toMatchObject({
    code: 'quota_exceeded',
  })
  expect(await blobs.list({ tenant: 'acme', limit: 10 })).toEqual({ items: [], nextCursor: null })
  expect(await Array.fromAsync(store.list())).toEqual([])
})

test('those that come at once share a quota, and room comes back', async () => {
  const { blobs } = await openBlobs()
  const quota = { storageMb: 1 }
  const put = (fill: number) => blobs.put('acme', Buffer.alloc(400 * 1024, fill), { ttlMs, quota })
  const ends = await Promise.allSettled([1, 2, 3, 4].map(put))
  const kept = ends.filter(({ status }) => status === 'fulfilled')
  expect(kept.length).toBeLessThanOrEqual(2)
  const { items } = await blobs.list({ tenant: 'acme', limit: 10 })
  expect(items).toHaveLength(kept.length)
  for (const item of items) await blobs.remove('acme', item.hash)
  expect(await put(5)).toMatchObject({ sizeBytes: 400 * 1024 })
})

test('a page ends with a cursor, and all are roots', async () => {
  const { blobs } = await openBlobs()
  const hashes: string[] = []
  for (let n = 0; n < 5; n++) hashes.push((await blobs.put('acme', Buffer.from(`${n}`), { ttlMs })).hash)
  await blobs.put('other', Buffer.from('0'), { ttlMs })
  const first = await blobs.list({ tenant: 'acme', limit: 3 })
  const rest = await blobs.list({ tenant: 'acme', limit: 3, cursor: first.nextCursor ?? '' })
  expect([...first.items, ...rest.items].map((item) => item.hash)).toEqual(hashes.sort())
  expect(rest.nextCursor).toBeNull()
  expect(new Set(await Array.fromAsync(blobs.roots()))).toEqual(new Set(hashes))
})

test('what is held stays in the store for a collection, and is given free after', async () => {
  const { blobs, store } = await openBlobs()
  await blobs.put('acme', bytes, { ttlMs })
  const held = await blobs.hold('acme', [hash])
  await blobs.remove('acme', hash)
  expect(await Array.fromAsync(store.leases.held())).toEqual([hash])
  await held[Symbol.asyncDispose]()
  expect(await Array.fromAsync(store.leases.held())).toEqual([])
})
