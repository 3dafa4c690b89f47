import { describe, expect, test } from 'vitest'
import { absentHash, listOf, noise, text } from './bytes.ts'
import { type OpenStore, skip } from './subject.ts'

/** Later than anything that was put: what is not held goes. */
const always = { idleSinceMs: Number.MAX_SAFE_INTEGER }

export const testLeases = (open: OpenStore): void => {
  describe('leases', () => {
    test('what is put or held under one stays until it is released', async (context) => {
      const { store } = await open(context)
      const lease = await store.leases.acquire()
      const put = await store.put(text(100), { lease })
      const held = await store.put(text(200))
      const free = await store.put(text(300))
      await lease.hold([held.hash, put.hash])
      expect((await listOf(store.leases.held())).sort()).toEqual([put.hash, held.hash].sort())
      expect(await store.remove(put.hash, always)).toBe(false)
      expect(await store.remove(held.hash, always)).toBe(false)
      expect(await store.remove(free.hash, always)).toBe(true)
      await lease.release()
      await lease.release()
      expect(await listOf(store.leases.held())).toEqual([])
      expect(await store.remove(put.hash, always)).toBe(true)
      expect(await store.stat(held.hash)).toEqual(held)
    })

    test('one that is put again under a lease is held', async (context) => {
      const { store } = await open(context)
      await store.put(noise(700_000))
      await using lease = await store.leases.acquire()
      const { hash } = await store.put(noise(700_000), { lease })
      expect(await store.remove(hash, always)).toBe(false)
      expect(await listOf(store.leases.held())).toEqual([hash])
    })

    test('what two leases hold stays until both are released', async (context) => {
      const { store } = await open(context)
      const [left, right] = [await store.leases.acquire(), await store.leases.acquire({ ttlMs: 60_000 })]
      const { hash } = await store.put(text(100), { lease: left })
      await right.hold([hash])
      await left.release()
      expect(await store.remove(hash, always)).toBe(false)
      await right[Symbol.asyncDispose]()
      expect(await store.remove(hash, always)).toBe(true)
    })

    test('what is not there cannot be held', async (context) => {
      const { store } = await open(context)
      await using lease = await store.leases.acquire()
      const { hash } = await store.put(text(100))
      await expect(lease.hold([hash, absentHash])).rejects.toMatchObject({ code: 'blob_not_found' })
      expect(await listOf(store.leases.held())).toEqual([])
    })

    test('a released lease protects nothing more', async (context) => {
      const { store } = await open(context)
      const { hash } = await store.put(text(100))
      const lease = await store.leases.acquire()
      await lease.release()
      await expect(lease.hold([hash])).rejects.toMatchObject({ code: 'conflict' })
      await expect(store.put(text(200), { lease })).rejects.toMatchObject({ code: 'conflict' })
    })

    test('what is young, or was put again, is left', async (context) => {
      const { store } = await open(context)
      const before = Date.now() - 60_000
      const { hash } = await store.put(text(100))
      expect(await store.remove(hash, { idleSinceMs: before })).toBe(false)
      const [first] = await listOf(store.list())
      expect(first?.touchedMs).toBeGreaterThan(before)
      await store.put(text(100))
      const [again] = await listOf(store.list())
      expect(again?.touchedMs).toBeGreaterThanOrEqual(first?.touchedMs ?? 0)
      expect(await store.remove(hash, always)).toBe(true)
      expect(await listOf(store.list())).toEqual([])
    })

    test('removing races with putting again: a put that resolved is there', async (context) => {
      const { store } = await open(context)
      const bytes = text(5000)
      for (let round = 0; round < 20; round++) {
        const { hash } = await store.put(bytes)
        await using lease = await store.leases.acquire()
        const [put] = await Promise.all([store.put(bytes, { lease }), store.remove(hash, always)])
        expect(await store.stat(hash)).toEqual(put)
        await lease.release()
        await store.remove(hash)
      }
    })

    test('they outlive the store until they expire', async (context) => {
      const { store, reopen } = await open(context)
      if (!reopen) return skip(context, 'nothing outlives the store')
      const lease = await store.leases.acquire()
      const { hash } = await store.put(text(100), { lease })
      const other = await store.leases.acquire()
      await store.put(text(200), { lease: other })
      await other.release()
      const later = await reopen()
      expect(await listOf(later.leases.held())).toEqual([hash])
      expect(await later.remove(hash, always)).toBe(false)
      expect(await later.stat(hash)).toBeDefined()
    })
  })
}
