import { expect, test } from 'vitest'
import { openTestNetwork } from '../testing/test-network.ts'
import { openKeyDocuments } from './key-documents.ts'

const REQUEST = { name: 'k', tenant: 'acme', scopes: ['read' as const], quota: {} }

test('a key that one coordinator makes is known at another; one that is removed is refused there when its time is over', async () => {
  const { network, store } = await openTestNetwork()
  await using _open = network
  let now = 0
  const options = { store, network, cacheMs: 3000, requestsPerSecond: 10, now: () => now }
  const [here, there] = [await openKeyDocuments(options), await openKeyDocuments(options)]
  const { key, id } = await here.create(REQUEST)
  now += 300
  expect(await there.find(key)).toMatchObject({ tenant: 'acme', keyId: id })
  const admin = await here.create({ ...REQUEST, scopes: ['admin'] })
  await expect(here.remove(admin.id)).rejects.toMatchObject({ code: 'conflict' })
  await here.remove(id)
  expect(await here.find(key)).toBeUndefined()
  expect(there.find(key)).toMatchObject({ keyId: id })
  now += 3001
  expect(await there.find(key)).toBeUndefined()
})

test('a key keeps its rate when keys are read again, and works while the store does not answer', async () => {
  const { network, store } = await openTestNetwork()
  await using _open = network
  let now = 0
  let broken = false
  const flaky = {
    documents: (kind: string) => (broken ? Promise.reject(new Error('down')) : store.documents(kind)),
  }
  const options = { store: flaky, network, cacheMs: 1000, requestsPerSecond: 10, now: () => now }
  const keys = await openKeyDocuments(options)
  const { key } = await keys.create({ ...REQUEST, quota: { requestsPerSecond: 1 } })
  const before = await keys.find(key)
  expect(before?.bucket?.take().allowed).toBe(true)
  now += 2000
  expect(await keys.find(key)).toBe(before)
  broken = true
  now += 2000
  expect(await keys.find(key)).toBe(before)
})

test('a key without a rate has the usual one; an administrator has none', async () => {
  const { network, store } = await openTestNetwork()
  await using _open = network
  const keys = await openKeyDocuments({ store, network, cacheMs: 1000, requestsPerSecond: 10 })
  const [plain, admin] = [await keys.create(REQUEST), await keys.create({ ...REQUEST, scopes: ['admin'] })]
  expect((await keys.find(plain.key))?.bucket?.take().limit).toBe(10)
  expect(await keys.find(admin.key)).toMatchObject({ bucket: undefined })
  expect((await keys.list()).map(({ quota }) => quota)).toEqual([{}, {}])
})
