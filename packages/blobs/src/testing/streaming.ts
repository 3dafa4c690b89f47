import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, test } from 'vitest'
import { absentHash, bytesOf, hashOf, listOf, noise, text } from './bytes.ts'
import { type OpenStore, skip } from './subject.ts'

const KiB = 1024
const MiB = 1024 * KiB

/** What a store may hold of one blob that passes through it: parts of an upload, pieces ahead of the reader. */
const heldBytesMax = 64 * MiB

const collectGarbage = (): void => {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
}

/** Bytes that live buffers have now. */
const bufferBytes = (): number => {
  collectGarbage()
  return process.memoryUsage().arrayBuffers
}

export const testStreaming = (open: OpenStore): void => {
  describe('streaming', () => {
    test('a source that fails leaves nothing', async (context) => {
      const { store } = await open(context)
      const failure = new Error('the source is broken')
      const broken = async function* (): AsyncIterable<Uint8Array> {
        yield noise(700 * KiB)
        throw failure
      }
      await expect(store.put(broken())).rejects.toBe(failure)
      expect(await listOf(store.list())).toEqual([])
    })

    test('an aborted put leaves nothing, and closes its source', async (context) => {
      const { store } = await open(context)
      const abort = new AbortController()
      const closed = Promise.withResolvers<void>()
      const endless = async function* (): AsyncIterable<Uint8Array> {
        try {
          for (let i = 0; ; i++) {
            if (i === 5) abort.abort(new Error('enough'))
            yield noise(300 * KiB, i)
          }
        } finally {
          closed.resolve()
        }
      }
      await expect(store.put(endless(), { signal: abort.signal })).rejects.toThrow('enough')
      await closed.promise
      await expect(store.put(text(10), { signal: abort.signal })).rejects.toThrow('enough')
      expect(await listOf(store.list())).toEqual([])
    })

    test('a put whose source gives nothing more is aborted', async (context) => {
      const { store } = await open(context)
      const abort = new AbortController()
      const stuck = async function* (): AsyncIterable<Uint8Array> {
        yield text(10)
        abort.abort(new Error('no patience'))
        await new Promise(() => undefined)
      }
      await expect(store.put(stuck(), { signal: abort.signal })).rejects.toThrow('no patience')
      expect(await listOf(store.list())).toEqual([])
    })

    test('a source that is too long is closed', async (context) => {
      const { store } = await open(context)
      const closed = Promise.withResolvers<void>()
      const endless = async function* (): AsyncIterable<Uint8Array> {
        try {
          for (;;) yield noise(10 * KiB)
        } finally {
          closed.resolve()
        }
      }
      await expect(store.put(endless(), { sizeBytes: 100 * KiB })).rejects.toMatchObject({ code: 'blob_corrupt' })
      await closed.promise
    })

    test('an aborted get ends with the reason', async (context) => {
      const { store } = await open(context)
      const { hash } = await store.put(noise(3 * MiB))
      const abort = new AbortController()
      const read = async (): Promise<void> => {
        for await (const _piece of await store.get(hash, { signal: abort.signal })) abort.abort(new Error('enough'))
      }
      await expect(read()).rejects.toThrow('enough')
      await expect(store.get(hash, { signal: abort.signal })).rejects.toThrow('enough')
      expect(await bytesOf(await store.get(hash))).toHaveLength(3 * MiB)
    })

    test('one that is read by many at once, and given up by some', async (context) => {
      const { store } = await open(context)
      const bytes = text(2 * MiB)
      const { hash } = await store.put(bytes)
      const readers = Array.from({ length: 12 }, async (_, i) => {
        const stream = await store.get(hash)
        if (i % 3 > 0) return (await bytesOf(stream)).equals(bytes)
        for await (const piece of stream) return piece.length > 0
        return false
      })
      expect(await Promise.all(readers)).not.toContain(false)
      // One that nobody reads holds nothing up.
      await store.get(hash)
    })

    test('removed while it is read: whole, or an error', async (context) => {
      const { store } = await open(context)
      const bytes = noise(4 * MiB)
      const { hash } = await store.put(bytes)
      const pieces: Uint8Array[] = []
      const read = async (): Promise<boolean> => {
        for await (const piece of await store.get(hash)) {
          if (pieces.length === 0) await store.remove(hash)
          pieces.push(piece)
        }
        return Buffer.concat(pieces).equals(bytes)
      }
      const end = await read().catch(({ code }: { code: string }) => code)
      expect([true, 'blob_not_found']).toContain(end)
    })

    test('a large blob passes in bounded memory, at the pace of its reader', async (context) => {
      const { store, largeBytes } = await open(context)
      if (largeBytes === 0) return skip(context, 'it stores in memory')
      const pieceBytes = MiB
      const count = Math.ceil(largeBytes / pieceBytes)
      // Half of it compresses.
      const pieceAt = (i: number): Buffer => (i % 2 > 0 ? text(pieceBytes, i) : noise(pieceBytes, i))
      const before = bufferBytes()
      let most = 0
      const source = async function* (): AsyncIterable<Uint8Array> {
        for (let i = 0; i < count; i++) {
          if (i % 16 === 0) most = Math.max(most, bufferBytes() - before)
          yield pieceAt(i)
        }
      }
      // One that outlives them holds nothing of what passed.
      const { signal } = new AbortController()
      const { hash, sizeBytes } = await store.put(source(), { signal })
      expect(sizeBytes).toBe(count * pieceBytes)
      expect(most).toBeLessThan(heldBytesMax)

      most = 0
      let seen = 0
      const whole: string[] = []
      let current: Uint8Array[] = []
      let currentBytes = 0
      const flush = (): void => {
        whole.push(hashOf(...current))
        current = []
        currentBytes = 0
      }
      for await (let piece of await store.get(hash, { signal })) {
        seen += piece.length
        while (currentBytes + piece.length >= pieceBytes) {
          const rest = pieceBytes - currentBytes
          current.push(piece.subarray(0, rest))
          piece = piece.subarray(rest)
          flush()
          if (whole.length % 16 === 0) most = Math.max(most, bufferBytes() - before)
        }
        current.push(piece)
        currentBytes += piece.length
      }
      expect(seen).toBe(sizeBytes)
      expect(most).toBeLessThan(heldBytesMax)
      expect(whole).toEqual(Array.from({ length: count }, (_, i) => hashOf(pieceAt(i))))
      expect(hash).not.toBe(absentHash)
    })
  })
}
