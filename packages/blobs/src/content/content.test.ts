import { type Content, contentSchema } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { BlobStore } from '../blob-store.ts'
import { type ContentReader, contentReader, contentWriter, memoryStore, readContent } from '../index.ts'
import { absentHash, bytesOf, hashOf, listOf, noise, text } from '../testing/bytes.ts'

const KiB = 1024
const MiB = 1024 * KiB

/** Writes contents one after another, and gives their descriptors. */
const write = async (
  store: BlobStore,
  contents: readonly Uint8Array[],
  known?: (sha256: string, sizeBytes: number) => Content | undefined,
) => {
  const lease = await store.leases.acquire()
  const writer = contentWriter({ store, lease, ...(known && { known }) })
  const descriptors: (() => Content)[] = []
  for (const bytes of contents) descriptors.push(await writer.add(bytes))
  const totals = await writer.finish()
  return { totals, lease, contents: descriptors.map((describeContent) => describeContent()) }
}

const first = <T>(list: readonly T[]): T => {
  const [item] = list
  if (item === undefined) throw new Error('the list is empty')
  return item
}

const samples: Record<string, Buffer> = {
  empty: Buffer.alloc(0),
  'one byte': Buffer.from('x'),
  'just small': noise(64 * KiB - 1),
  'just not small': noise(64 * KiB),
  'small text': text(5000),
  'large noise': noise(5 * MiB + 1),
  'large text': text(3 * MiB),
  zeros: Buffer.alloc(5 * MiB),
}

describe('contents', () => {
  for (const [name, bytes] of Object.entries(samples))
    test(`${name}: what was written is read, alone and among others`, async () => {
      const store = memoryStore()
      const { contents, totals } = await write(store, [text(100, 1), bytes, text(100, 2)])
      expect(totals).toMatchObject({ contents: 3, sizeBytes: bytes.length + 200 })
      const content = contentSchema.parse(contents[1])
      expect(content).toMatchObject({ sizeBytes: bytes.length, sha256: hashOf(bytes) })
      expect((await bytesOf(readContent(store, content))).equals(bytes)).toBe(true)
      expect((await bytesOf(contentReader(store).read(content))).equals(bytes)).toBe(true)
      for (const { blob } of content.pieces) expect(await listOf(store.leases.held())).toContain(blob)
    })

  test('a stream in pieces of any size is cut where its bytes say', async () => {
    const bytes = Buffer.concat([noise(2 * MiB), text(MiB), noise(MiB, 1)])
    const cuts: unknown[] = []
    for (const step of [777, 65_536, 300_001, bytes.length]) {
      const store = memoryStore()
      const lease = await store.leases.acquire()
      const writer = contentWriter({ store, lease })
      const pieces = Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) =>
        bytes.subarray(i * step, (i + 1) * step),
      )
      const descriptor = await writer.add(pieces)
      await writer.finish()
      cuts.push(descriptor().pieces)
      for (const { sizeBytes } of descriptor().pieces.slice(0, -1)) {
        expect(sizeBytes).toBeGreaterThanOrEqual(64 * KiB)
        expect(sizeBytes).toBeLessThanOrEqual(768 * KiB)
      }
    }
    for (const cut of cuts) expect(cut).toEqual(cuts[0])
    expect(first(cuts as unknown[][]).length).toBeGreaterThan(8)
  })

  test('a byte that is inserted into a large content changes what is around it only', async () => {
    const store = memoryStore()
    const bytes = noise(20 * MiB)
    const { totals: before } = await write(store, [bytes])
    const changed = Buffer.concat([bytes.subarray(0, 7 * MiB), Buffer.from('!'), bytes.subarray(7 * MiB)])
    const { totals, contents } = await write(store, [changed])
    expect(before.newStoredBytes).toBe(20 * MiB)
    expect(totals.newBlobs).toBeLessThanOrEqual(3)
    expect(totals.newStoredBytes).toBeLessThan(2 * MiB)
    expect((await bytesOf(readContent(store, first(contents)))).equals(changed)).toBe(true)
  })

  test('small contents share packs; equal ones share their place', async () => {
    const store = memoryStore()
    const small = Array.from({ length: 500 }, (_, i) => text(2000 + (i % 50), i % 250))
    const { contents, totals } = await write(store, small)
    expect(totals.newBlobs).toBe(1)
    expect(totals.newStoredBytes).toBeLessThan(260 * 2050)
    const reader = contentReader(store)
    for (const [i, content] of contents.entries()) expect(await bytesOf(reader.read(content))).toEqual(small[i])
  })

  test('packs end before they are too large, and are known only when they are stored', async () => {
    const store = memoryStore()
    const lease = await store.leases.acquire()
    const writer = contentWriter({ store, lease })
    const descriptors = await Promise.all(Array.from({ length: 200 }, (_, i) => writer.add(noise(60_000, i))))
    const last = descriptors.at(-1)
    if (!last) throw new Error('nothing was added')
    expect(last).toThrow('finish')
    await writer.finish()
    const sizes = (await listOf(store.list())).map(({ storedBytes }) => storedBytes)
    expect(sizes).toHaveLength(3)
    expect(Math.max(...sizes)).toBeLessThanOrEqual(4 * MiB)
    for (const [i, descriptor] of descriptors.entries())
      expect((await bytesOf(readContent(store, descriptor()))).equals(noise(60_000, i))).toBe(true)
  })

  test('what an earlier tree knows is held, and not packed again', async () => {
    const store = memoryStore()
    const small = Array.from({ length: 300 }, (_, i) => noise(3000, i))
    const earlier = await write(store, small)
    await earlier.lease.release()
    const index = new Map(earlier.contents.map((content) => [content.sha256, content]))
    const changed = small.map((bytes, i) => (i % 100 === 7 ? noise(3000, 1000 + i) : bytes))
    const { totals, contents } = await write(store, changed, (sha256) => index.get(sha256 as Content['sha256']))
    expect(totals).toMatchObject({ newBlobs: 1, newStoredBytes: 9000 })
    const pack = first(first(earlier.contents).pieces).blob
    expect(await listOf(store.leases.held())).toContain(pack)
    for (const [i, content] of contents.entries())
      expect((await bytesOf(readContent(store, content))).equals(changed[i] ?? Buffer.alloc(0))).toBe(true)
  })

  test('what an earlier tree knows, and is gone, is stored again', async () => {
    const store = memoryStore()
    const bytes = noise(3000)
    const earlier = first((await write(store, [bytes])).contents)
    await store.remove(first(earlier.pieces).blob)
    const { totals, contents } = await write(store, [bytes], () => earlier)
    expect(totals.newBlobs).toBe(1)
    expect(await bytesOf(readContent(store, first(contents)))).toEqual(bytes)
  })

  test('a knowledge of other bytes is not used', async () => {
    const store = memoryStore()
    const other = first((await write(store, [text(3000)])).contents)
    const { contents } = await write(store, [noise(3000)], () => other)
    expect(await bytesOf(readContent(store, first(contents)))).toEqual(noise(3000))
  })

  test('a store that fails, fails who adds and who finishes', async () => {
    const store = memoryStore()
    const lease = await store.leases.acquire()
    const writer = contentWriter({ store, lease })
    await writer.add(text(100))
    await lease.release()
    await expect(writer.add(noise(5 * MiB))).rejects.toMatchObject({ code: 'conflict' })
    await expect(writer.finish()).rejects.toMatchObject({ code: 'conflict' })
  })

  test('a source that fails, or is aborted', async () => {
    const store = memoryStore()
    const lease = await store.leases.acquire()
    const writer = contentWriter({ store, lease })
    const broken = async function* (): AsyncIterable<Uint8Array> {
      yield noise(MiB)
      throw new Error('broken')
    }
    await expect(writer.add(broken())).rejects.toThrow('broken')
    await expect(writer.add(noise(MiB), { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough')
    await writer.add(text(10))
    expect(await writer.finish()).toMatchObject({ contents: 1, sizeBytes: 10 })
  })
})

describe('hostile descriptors', () => {
  const open = async () => {
    const store = memoryStore()
    const pack = noise(10_000)
    const { hash: blob } = await store.put(pack)
    return { store, pack, blob }
  }
  type Opened = Awaited<ReturnType<typeof open>>
  const bad: Record<string, (opened: Opened) => Partial<Content>> = {
    'pieces that are shorter together': ({ blob }) => ({ sizeBytes: 10_001, pieces: [{ blob, sizeBytes: 10_000 }] }),
    'pieces that are longer together': ({ blob }) => ({ sizeBytes: 10, pieces: [{ blob, sizeBytes: 10_000 }] }),
    'a blob that is said to be larger': ({ blob }) => ({ sizeBytes: 20_000, pieces: [{ blob, sizeBytes: 20_000 }] }),
    'a blob that is said to be smaller': ({ blob }) => ({ sizeBytes: 500, pieces: [{ blob, sizeBytes: 500 }] }),
    'a place after the end of its pack': ({ blob }) => ({
      sizeBytes: 100,
      pieces: [{ blob, sizeBytes: 10_000, offset: 9950, length: 100 }],
    }),
    'a place in a pack that is said to be larger': ({ blob }) => ({
      sizeBytes: 100,
      pieces: [{ blob, sizeBytes: 90_000, offset: 50_000, length: 100 }],
    }),
    'an offset without a length': ({ blob }) => ({
      sizeBytes: 10_000,
      pieces: [{ blob, sizeBytes: 10_000, offset: 0 }],
    }),
    'other bytes than its hash': ({ blob }) => ({
      sizeBytes: 100,
      pieces: [{ blob, sizeBytes: 10_000, offset: 1, length: 100 }],
    }),
    'no bytes, and a hash of some': () => ({ sizeBytes: 0, pieces: [] }),
    'an endless zero': ({ blob }) => ({
      sizeBytes: 0,
      pieces: Array.from({ length: 100 }, () => ({ blob, sizeBytes: 10_000, offset: 0, length: 0 })),
    }),
  }
  const readers: Record<string, (store: BlobStore) => ContentReader['read']> = {
    alone: (store) => (content) => readContent(store, content),
    'among others': (store) => contentReader(store).read,
  }
  for (const [reader, readerOf] of Object.entries(readers)) {
    for (const [name, make] of Object.entries(bad))
      test(`${name}, read ${reader}`, async () => {
        const opened = await open()
        const content: Content = {
          sizeBytes: 0,
          sha256: hashOf(opened.pack.subarray(0, 100)),
          pieces: [],
          ...make(opened),
        }
        await expect(bytesOf(readerOf(opened.store)(content))).rejects.toMatchObject({ code: 'blob_corrupt' })
      })

    test(`a blob that is not there, read ${reader}`, async () => {
      const { store, blob } = await open()
      const content: Content = {
        sizeBytes: 10_100,
        sha256: absentHash,
        pieces: [
          { blob, sizeBytes: 10_000 },
          { blob: absentHash, sizeBytes: 500, offset: 0, length: 100 },
        ],
      }
      await expect(bytesOf(readerOf(store)(content))).rejects.toMatchObject({ code: 'blob_not_found' })
    })

    test(`an aborted reading, ${reader}`, async () => {
      const { store, blob, pack } = await open()
      const content: Content = { sizeBytes: 10_000, sha256: hashOf(pack), pieces: [{ blob, sizeBytes: 10_000 }] }
      const signal = AbortSignal.abort(new Error('enough'))
      await expect(bytesOf(readerOf(store)({ ...content }))).resolves.toHaveLength(10_000)
      const aborted =
        reader === 'alone' ? readContent(store, content, { signal }) : contentReader(store).read(content, { signal })
      await expect(bytesOf(aborted)).rejects.toThrow('enough')
    })
  }
})
