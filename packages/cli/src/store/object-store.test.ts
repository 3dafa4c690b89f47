import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openStore } from '@bramble/blobs'
import { useS3Server } from '@bramble/blobs/testing'
import { afterEach, expect, type TestContext, test, vi } from 'vitest'
import { collectObjectStore, verifyStore } from './object-store.ts'

const server = useS3Server()
afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
  process.exitCode = undefined
})

const run = async (command: () => Promise<void>): Promise<unknown> => {
  const log = vi.spyOn(console, 'log').mockImplementation(() => undefined)
  await command()
  return JSON.parse(String(log.mock.calls.at(-1)?.[0]))
}

test('a host and its object store heal each other, and what nobody needs goes', async (context: TestContext) => {
  const real = server(context)
  const dataDir = await mkdtemp(join(tmpdir(), 'bramble-object-store-'))
  await using _directory = { [Symbol.asyncDispose]: () => rm(dataDir, { recursive: true, force: true }) }
  const objectStoreUrl = real.url(await real.newBucket())
  vi.stubEnv('BRAMBLE_OBJECT_STORE_URL', objectStoreUrl)
  const store = await openStore({ directory: join(dataDir, 'blobs'), objectStoreUrl })
  const { hash } = await store.put(Buffer.from('some bytes that are worth keeping'))
  await store.settled()
  await store.close()

  const file = join(dataDir, 'blobs/blobs', hash.slice(0, 2), hash)
  const bytes = await readFile(file)
  await writeFile(file, bytes.fill(0, 0, 5))
  expect(await run(() => verifyStore({ dataDir, json: true }))).toMatchObject({
    blobs: 1,
    healedLocal: [hash],
    lost: [],
  })
  expect((await readdir(join(dataDir, 'blobs/quarantine'))).length).toBe(1)
  expect(await run(() => verifyStore({ dataDir, json: true }))).toMatchObject({ healedLocal: [], healedShared: [] })

  const collected = await run(() => collectObjectStore({ json: true, dryRun: false, graceHours: '24' }))
  expect(collected).toMatchObject({ keptBlobs: 1, removedBlobs: 0 })
  await expect(collectObjectStore({ json: true, dryRun: false, graceHours: '0' })).rejects.toThrow('at least 1')
})

test('without an object store there is nothing to compare with', async () => {
  vi.stubEnv('BRAMBLE_OBJECT_STORE_URL', '')
  await expect(verifyStore({ json: true })).rejects.toThrow('there is no object store')
})
