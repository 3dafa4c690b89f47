import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openStore } from '@bramble/blobs'
import { openS3Server } from '@bramble/blobs/testing/s3'
import { blobHashSchema } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { CONTEXT, openTestEngine, spec } from '../testing.ts'

const LARGE = 'echo large; yes line | head -c 200000'

test('two nodes before one S3 share results and what is forgotten, and go on without it', async (context) => {
  const server = await openS3Server()
  if ('skip' in server) {
    if ((process.env.REQUIRE_DRIVERS ?? '').split(',').includes('s3')) throw new Error(server.skip)
    process.stderr.write(`skipped: ${context.task.name}: ${server.skip}\n`)
    return context.skip(server.skip)
  }
  await using ends = new AsyncDisposableStack()
  ends.use(server)
  const objectStoreUrl = server.url(await server.newBucket())
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

  await server.close()
  expect(await two.run(LARGE)).toMatchObject({ cached: true })
  for (const command of ['echo a', 'echo b', 'echo c', 'echo d']) {
    expect(await two.run(command)).toMatchObject({ cached: false })
    expect(await two.run(command)).toMatchObject({ cached: true })
  }
})
