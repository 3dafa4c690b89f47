import { expect, test } from 'vitest'
import { openTestNetwork } from '../testing/test-network.ts'
import { openKeyDocuments } from './key-documents.ts'

const REQUEST = { name: 'k', tenant: 'acme', scopes: ['read' as const], quota: {} }

test('a key that one coordinator makes is known at another; one that is removed is refused there when its time is over', async () => {
  const { network, store } = await openTestNetwork()
  await using _open = network
  let now = 0
  const options = { store, network, cacheMs: 3000, now: () => now }
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
  const keys = await openKeyDocuments({ store: flaky, network, cacheMs: 1000, now: () => now })
  const { key } = await keys.create({ ...REQUEST, quota: { requestsPerSecond: 1 } })
  const before = await keys.find(key)
  expect(before?.bucket?.take().allowed).toBe(true)
  now += 2000
  expect(await keys.find(key)).toBe(before)
  broken = true
  now += 2000
  expect(await keys.find(key)).toBe(before)
})
