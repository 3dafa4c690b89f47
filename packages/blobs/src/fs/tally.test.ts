import { randomBytes } from 'node:crypto'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BlobHash } from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { type BlobStore, fsStore } from '../index.ts'

const makeDirectory = async (): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-tally-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** What a listing adds up to. */
const listed = async (store: BlobStore) => {
  const sum = { blobs: 0, sizeBytes: 0, storedBytes: 0 }
  for await (const { hash, storedBytes } of store.list()) {
    sum.blobs++
    sum.storedBytes += storedBytes
    sum.sizeBytes += (await store.stat(hash))?.sizeBytes ?? 0
  }
  return sum
}

const agree = async (store: BlobStore, blobs: number): Promise<void> => {
  const sum = await listed(store)
  expect(sum.blobs).toBe(blobs)
  expect(await store.stats?.()).toEqual({ ...sum, maxBytes: null, pendingUploads: 0, pendingBytes: 0 })
}

test('what is put while it is counted, put again, removed or damaged is counted once, or not any more', async () => {
  const directory = await makeDirectory()
  let store = await fsStore({ directory })
  const hashes: BlobHash[] = []
  const put = async (bytes: Buffer): Promise<void> => void hashes.push((await store.put(bytes)).hash)
  const contents = Array.from({ length: 300 }, (_, index) =>
    index % 3 ? randomBytes(20 + index) : Buffer.alloc(5000, index),
  )
  await Promise.all(contents.map(put))
  await agree(store, 300)
  await store.put(contents[0] ?? Buffer.alloc(0))
  await agree(store, 300)
  await store.close()

  store = await fsStore({ directory })
  onTestFinished(() => store.close())
  const [first, second, third, ...rest] = hashes
  if (!first || !second || !third) throw new Error('nothing was put')
  await Promise.all([
    ...rest.slice(0, 50).map((hash) => store.remove(hash)),
    ...Array.from({ length: 100 }, (_, index) => put(Buffer.from(`more ${index}`))),
    store.stats?.(),
  ])
  await agree(store, 350)
  await Promise.all([store.remove(first), store.remove(first)])
  expect(await store.remove(second, { idleSinceMs: 0 })).toBe(false)
  await agree(store, 349)

  const file = await open(join(directory, 'blobs', third.slice(0, 2), third), 'r+')
  await file.write(Buffer.from([0xff]), 0, 1, (await file.stat()).size - 1)
  await file.close()
  await expect(store.get(third)).rejects.toMatchObject({ code: 'blob_corrupt' })
  expect(await store.stats?.()).toMatchObject({ blobs: 348, storedBytes: (await listed(store)).storedBytes })
})

test('who asks may stop waiting; a store that is closed counts no more', async () => {
  const directory = await makeDirectory()
  const store = await fsStore({ directory })
  const reason = new Error('enough')
  await expect(store.stats?.({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  await store.close()
  await store.close()
})
