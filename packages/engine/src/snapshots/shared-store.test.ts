import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openStore } from '@bramble/blobs'
import { useS3Server } from '@bramble/blobs/testing'
import type { FakeHost } from '@bramble/runtime'
import { expect, test } from 'vitest'
import { branch, make, note, OWNER, openTestNode, read, restore, startNotes, take, write } from './testing.ts'

const { tenant } = OWNER

const server = useS3Server()

test('a node goes on with what another brought to S3; without S3 each goes on with its own', async (context) => {
  const real = server(context)
  await using ends = new AsyncDisposableStack()
  const objectStoreUrl = real.url(await real.newBucket())
  const openNode = async (like?: FakeHost) => {
    const directory = await mkdtemp(join(tmpdir(), 'bramble-shared-'))
    ends.defer(() => rm(directory, { recursive: true, force: true }))
    const blobs = await openStore({ directory, objectStoreUrl })
    ends.defer(() => blobs.close())
    return ends.use(await openTestNode({ blobs, ...(like && { like }) }))
  }
  const one = await openNode()
  const box = await make(one.engine)
  await write(one.engine, box.id, '/data', 'kept')
  await startNotes(one.engine, box.id)
  await note(one.engine, box.id, 'a')
  const { snapshotId = '' } = await one.engine.snapshots.pause(box.id, OWNER)
  await one.engine.snapshots.change(snapshotId, tenant, { name: 'step' })
  await expect
    .poll(async () => (await one.engine.snapshots.get('step', tenant)).stored, { timeout: 20_000 })
    .toBe('shared')

  const two = await openNode(one.host)
  const restored = await restore(two.engine, 'step', { memory: true })
  expect(await note(two.engine, restored.id, 'b')).toBe('ab')
  expect(await read(two.engine, restored.id, '/data')).toBe('kept')

  await real.close()
  // What is here needs nobody else.
  const child = (await branch(two.engine, { parent: restored.id, count: 1 })).items[0]?.instanceId ?? ''
  expect(await note(two.engine, child, 'c')).toBe('abc')
  const taken = await take(two.engine, child, { name: 'here' })
  expect(taken.stored).toBe('local')
  expect(await note(two.engine, (await restore(two.engine, 'here')).id, 'd')).toBe('abcd')
  // What only others may know cannot be told from what is nowhere.
  await expect(two.engine.snapshots.get('elsewhere', tenant)).rejects.toMatchObject({ retryable: true })
})
