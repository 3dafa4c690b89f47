import { describe, expect, test } from 'vitest'
import { aBatch } from '../testing/records.ts'
import { testStore } from '../testing/store-contract.ts'
import { memoryStore } from './memory-store.ts'

testStore('memory', {
  open: async () => {
    let now = 0
    const store = memoryStore({ now: () => now })
    return {
      open: async () => store,
      died: async () => {
        now += 1_000_000
      },
      close: async () => {},
    }
  },
})

describe('a memory store that fails', () => {
  test('before the commit has nothing of it, after the commit all', async () => {
    let fail: 'before' | 'after' | undefined
    const store = memoryStore({
      now: () => 0,
      onAppend: (when) => {
        if (when === fail) throw new Error(`it failed ${when} the commit`)
      },
    })
    const lease = await store.acquire({ name: 'one', url: 'http://one.test/', ttlMs: 1 })
    const epoch = lease.held ? lease.epoch : 0
    fail = 'before'
    await expect(store.append(epoch, aBatch(1, { log: [1] }))).rejects.toThrow('before the commit')
    expect((await store.load()).seq).toBe(0)
    fail = 'after'
    await expect(store.append(epoch, aBatch(1, { log: [1] }))).rejects.toThrow('after the commit')
    expect((await store.load()).seq).toBe(1)
  })
})
