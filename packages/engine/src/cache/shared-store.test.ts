import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openStore } from '@bramble/blobs'
import { useS3Server } from '@bramble/blobs/testing'
import { blobHashSchema } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { CONTEXT, openTestEngine, spec } from '../testing.ts'

const LARGE = 'echo large; yes line | head -c 200000'

const server = useS3Server()

test('two nodes before one S3 share results and what is forgotten, and go on without it', async (context) => {
  const real = server(context)
  await using ends = new AsyncDisposableStack()
  const objectStoreUrl = real.url(await real.newBucket())
  const openNode = async () => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-shared-'))
    ends.defer(() => rm(directory, { recursive: true, force: true }))
    const blobs = await openStore({ directory, objectStoreUrl })
    ends.defer(() => blobs.close())
    const cacheLimits = { refreshMs: 50, storeWaitMs: 30_000 }
    const { engine, notices } = ends.use(await openTestEngine({ engine: { blobs, cacheLimits } }))
    const run = (command: string) => engine.execute(spec({ command, mode: 'cached' }), CONTEXT).result
    return { engine, notices, blobs, run }
  }
  const one = await openNode()
  const two = await openNode()
  const { inputHash, resultHash, stdout } = await one.run(LARGE)
  // Written behind the answer, and brought to S3 behind that.
  await expect.poll(() => Array.fromAsync(one.blobs.names.list('results/'))).toHaveLength(1)
  await one.blobs.settled()
  expect(await two.run(LARGE)).toMatchObject({ cached: true, stdout, resultHash })
  expect(two.notices).toContainEqual({ type: 'cache', source: 'shared' })

  expect(await one.engine.cache.invalidate('default', { key: blobHashSchema.parse(inputHash) })).toBe(1)
  await one.blobs.settled()
  await expect.poll(() => two.engine.cache.stats('default').entries, { timeout: 20_000 }).toBe(0)
  expect(await two.run(LARGE)).toMatchObject({ cached: false })

  await real.close()
  expect(await two.run(LARGE)).toMatchObject({ cached: true })
  for (const command of ['echo a', 'echo b', 'echo c', 'echo d']) {
    expect(await two.run(command)).toMatchObject({ cached: false })
    expect(await two.run(command)).toMatchObject({ cached: true })
  }
})
