import { describe, expect, test } from 'vitest'
import type { BlobSource } from '../blob-store.ts'
import { absentHash, bytesOf, hashOf, listOf, noise, text } from './bytes.ts'
import { type OpenStore, skip } from './subject.ts'

const KiB = 1024

export const testBlobs = (open: OpenStore): void => {
  describe('blobs', () => {
    const samples: Record<string, Buffer> = {
      empty: Buffer.alloc(0),
      'one byte': Buffer.from('x'),
      'a line': Buffer.from('hello, world\n'),
      zeros: Buffer.alloc(3 * 1024 * KiB + 5),
      'short text': text(3 * KiB),
      'long text': text(5 * 1024 * KiB + 17),
      'short noise': noise(3 * KiB),
      'long noise': noise(5 * 1024 * KiB + 17),
      'exactly one piece': noise(256 * KiB),
      'text, then noise': Buffer.concat([text(700 * KiB), noise(700 * KiB)]),
      'noise, then text': Buffer.concat([noise(700 * KiB), text(700 * KiB)]),
    }
    for (const [name, bytes] of Object.entries(samples))
      for (const temperature of ['hot', 'cold'] as const)
        test(`${name}, ${temperature}: what was put is what comes`, async (context) => {
          const { store, reopen } = await open(context)
          const info = await store.put(bytes, { temperature })
          expect(info).toMatchObject({ hash: hashOf(bytes), sizeBytes: bytes.length })
          expect(await store.stat(info.hash)).toEqual(info)
          const stream = await store.get(info.hash)
          expect(stream.info).toEqual(info)
          expect((await bytesOf(stream)).equals(bytes)).toBe(true)
          const [listed, ...others] = await listOf(store.list())
          expect(others).toEqual([])
          expect(listed).toMatchObject({ hash: info.hash })
          expect(Number.isFinite(listed?.touchedMs) && (listed?.storedBytes ?? -1) >= 0).toBe(true)
          if (!reopen) return
          const later = await reopen()
          expect(await later.stat(info.hash)).toEqual(info)
          expect((await bytesOf(await later.get(info.hash))).equals(bytes)).toBe(true)
        })

    test('any kind of source', async (context) => {
      const { store } = await open(context)
      const bytes = noise(900 * KiB)
      const parts = [0, 1, 5, 300_000, 300_000, 900 * KiB].map((start, i, all) => bytes.subarray(start, all[i + 1]))
      const sources: BlobSource[] = [
        bytes,
        new Uint8Array(bytes),
        parts,
        (function* () {
          yield* parts
        })(),
        (async function* () {
          yield Buffer.alloc(0)
          yield* parts
          yield Buffer.alloc(0)
        })(),
        new Blob([new Uint8Array(bytes)]).stream(),
      ]
      for (const source of sources) expect((await store.put(source)).hash).toBe(hashOf(bytes))
      expect((await bytesOf(await store.get(hashOf(bytes)))).equals(bytes)).toBe(true)
    })

    test('pieces of a stream belong to the reader', async (context) => {
      const { store } = await open(context)
      const bytes = text(600 * KiB)
      const { hash } = await store.put(bytes)
      for await (const piece of await store.get(hash)) piece.fill(0)
      expect((await bytesOf(await store.get(hash))).equals(bytes)).toBe(true)
      expect(hashOf(bytes)).toBe(hash)
    })

    test('one that is not there', async (context) => {
      const { store } = await open(context)
      expect(await store.stat(absentHash)).toBeUndefined()
      await expect(store.get(absentHash)).rejects.toMatchObject({ code: 'blob_not_found' })
      await expect(store.get(absentHash, { range: { start: 0, end: 1 } })).rejects.toMatchObject({
        code: 'blob_not_found',
      })
      expect(await listOf(store.list())).toEqual([])
      await expect(store.remove(absentHash)).resolves.toBe(true)
    })

    test('what is no hash is not looked for', async (context) => {
      const { store } = await open(context)
      for (const hostile of [
        '',
        '..',
        '../../etc/passwd',
        'a'.repeat(63),
        'A'.repeat(64),
        `${'a'.repeat(62)}/x`,
        '\0',
      ]) {
        const hash = hostile as typeof absentHash
        await expect(store.get(hash)).rejects.toMatchObject({ code: 'blob_not_found' })
        expect(await store.stat(hash)).toBeUndefined()
        await store.remove(hash)
      }
    })

    test('the same bytes again are stored once', async (context) => {
      const { store } = await open(context)
      const bytes = text(400 * KiB)
      const first = await store.put(bytes)
      expect(await store.put([bytes.subarray(0, 7), bytes.subarray(7)])).toEqual(first)
      expect(await listOf(store.list())).toHaveLength(1)
    })

    test('the same bytes from many at once', async (context) => {
      const { store, reopen } = await open(context)
      const bytes = noise(300 * KiB)
      const infos = await Promise.all(Array.from({ length: 24 }, () => store.put(bytes)))
      expect(new Set(infos.map(({ hash }) => hash))).toEqual(new Set([hashOf(bytes)]))
      expect(await listOf(store.list())).toHaveLength(1)
      const later = reopen ? await reopen() : store
      expect((await bytesOf(await later.get(hashOf(bytes)))).equals(bytes)).toBe(true)
    })

    test('many blobs at once', async (context) => {
      const { store } = await open(context)
      const blobs = Array.from({ length: 200 }, (_, i) => noise(1 + ((i * 977) % 9000), i))
      const infos = await Promise.all(blobs.map((bytes) => store.put(bytes)))
      const listed = await listOf(store.list())
      expect(listed.map(({ hash }) => hash).sort()).toEqual(infos.map(({ hash }) => hash).sort())
      const read = await Promise.all(infos.map(async ({ hash }) => bytesOf(await store.get(hash))))
      expect(read.every((bytes, i) => bytes.equals(blobs[i] ?? Buffer.alloc(0)))).toBe(true)
    })

    test('removed ones are gone, and can be put again', async (context) => {
      const { store } = await open(context)
      const [left, right] = [await store.put(text(5000)), await store.put(noise(5000))]
      await expect(store.remove(left.hash)).resolves.toBe(true)
      await expect(store.remove(left.hash)).resolves.toBe(true)
      expect(await store.stat(left.hash)).toBeUndefined()
      await expect(store.get(left.hash)).rejects.toMatchObject({ code: 'blob_not_found' })
      expect((await listOf(store.list())).map(({ hash }) => hash)).toEqual([right.hash])
      await store.put(text(5000))
      expect((await bytesOf(await store.get(left.hash))).equals(text(5000))).toBe(true)
    })

    test('other bytes than were expected are refused', async (context) => {
      const { store } = await open(context)
      const bytes = text(500 * KiB)
      const wrong = { code: 'blob_corrupt' }
      await expect(store.put(bytes, { expect: absentHash })).rejects.toMatchObject(wrong)
      for (const sizeBytes of [0, bytes.length - 1, bytes.length + 1])
        await expect(store.put([bytes], { sizeBytes })).rejects.toMatchObject(wrong)
      expect(await listOf(store.list())).toEqual([])
      const good = { expect: hashOf(bytes), sizeBytes: bytes.length }
      expect(await store.put(bytes, good)).toMatchObject({ hash: good.expect })
      await expect(store.put(noise(10), good)).rejects.toMatchObject(wrong)
      expect((await bytesOf(await store.get(good.expect))).equals(bytes)).toBe(true)
    })

    for (const [name, bytes] of Object.entries({ text: text(900 * KiB), noise: noise(900 * KiB), line: text(50) }))
      test(`damaged ${name} is not given out`, async (context) => {
        const { store, damage, reopen } = await open(context)
        if (!damage) return skip(context, 'nothing can reach what it stores')
        const { hash } = await store.put(bytes)
        await store.settled()
        await damage(hash)
        const seen: Uint8Array[] = []
        const later = reopen ? await reopen() : store
        const read = async (): Promise<void> => {
          for await (const piece of await later.get(hash)) seen.push(piece)
        }
        await expect(read()).rejects.toMatchObject({ code: 'blob_corrupt', message: expect.stringContaining(hash) })
        expect(Buffer.concat(seen).length).toBeLessThan(bytes.length)
        await later.put(bytes)
        expect((await bytesOf(await later.get(hash))).equals(bytes)).toBe(true)
      })
  })
}
