import { memoryStore } from '@bramble/blobs'
import { instanceSpecSchema } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { branch, make, note, OWNER, openForTest, read, restore, startNotes, take, write } from './testing.ts'

const { tenant } = OWNER

test('pausing into a snapshot frees everything, and a request goes on where it was', async () => {
  const { engine, host } = await openForTest()
  const box = await make(engine, { name: 'box' })
  await write(engine, box.id, '/data', 'kept')
  await startNotes(engine, box.id)
  await note(engine, box.id, 'a')
  const { seq } = (await engine.instances.use(box.id, tenant)).stream
  const paused = await engine.snapshots.pause('box', OWNER)
  expect(paused).toMatchObject({ status: 'paused', snapshotId: expect.any(String) })
  expect([host.sandboxes.size, host.layers.size, engine.status().reservedMemoryMb]).toEqual([0, 0, 0])
  expect(await engine.instances.stats(box.id, tenant)).toMatchObject({ memoryBytes: 0, processes: 0 })
  await expect(take(engine, box.id)).rejects.toMatchObject({ code: 'conflict' })
  await expect(branch(engine, { parent: box.id, count: 1 })).rejects.toMatchObject({ code: 'conflict' })
  await expect(engine.snapshots.remove(paused.snapshotId ?? '', tenant)).rejects.toMatchObject({ code: 'conflict' })

  expect(await note(engine, box.id, 'b')).toBe('ab')
  expect(await read(engine, box.id, '/data')).toBe('kept')
  using lease = await engine.instances.use(box.id, tenant)
  expect(lease.stream.seq).toBe(seq + 1)
  const resumed = await engine.instances.get(box.id, tenant)
  expect(resumed.status).toBe('running')
  expect(resumed.snapshotId).toBeUndefined()
  await engine.snapshots.remove(paused.snapshotId ?? '', tenant)
})

test('it is still there after the node and its host are gone', async () => {
  const blobs = memoryStore()
  const first = await openForTest({ blobs })
  const box = await make(first.engine)
  await startNotes(first.engine, box.id)
  await note(first.engine, box.id, 'a')
  const { snapshotId = '' } = await first.engine.snapshots.pause(box.id, OWNER)
  await using again = await first.reopen()
  expect(await again.engine.instances.get(box.id, tenant)).toMatchObject({ status: 'paused', snapshotId })
  expect(await note(again.engine, box.id, 'b')).toBe('ab')

  const elsewhere = await openForTest({ blobs, like: first.host })
  const restored = await restore(elsewhere.engine, snapshotId)
  expect(await note(elsewhere.engine, restored.id, 'c')).toBe('ac')
})

test('stopped while it is paused, it starts with its files; removed, it is gone', async () => {
  const { engine, host } = await openForTest()
  const box = await make(engine, { command: 'sleep 60' })
  await write(engine, box.id, '/data', 'kept')
  await engine.snapshots.pause(box.id, OWNER)
  expect(await engine.instances.stop(box.id, tenant)).toMatchObject({ status: 'stopped' })
  expect(await engine.instances.start(box.id, tenant)).toMatchObject({ status: 'running' })
  expect(await read(engine, box.id, '/data')).toBe('kept')
  await engine.snapshots.pause(box.id, OWNER)
  await engine.instances.remove(box.id, tenant)
  expect([host.sandboxes.size, host.layers.size]).toEqual([0, 0])
})

test('what would be lost is said before, and the instance goes on', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await startNotes(engine, box.id)
  await note(engine, box.id, 'a')
  using lease = await engine.instances.use(box.id, tenant)
  const controller = new AbortController()
  const running = lease.exec({ command: 'sleep 60', env: {} }, { signal: controller.signal, stream: false })
  await expect(engine.snapshots.pause(box.id, OWNER)).rejects.toMatchObject({ code: 'checkpoint_refused' })
  expect(await note(engine, box.id, 'b')).toBe('ab')
  controller.abort()
  await running.result
  expect(await engine.snapshots.pause(box.id, OWNER)).toMatchObject({ status: 'paused' })
})

test('where the snapshot cannot be kept, it goes on as it was, and nothing of what it said is lost', async () => {
  const { engine } = await openForTest()
  const owner = { ...OWNER, quota: { storageMb: 1 } }
  const box = await engine.instances.create(instanceSpecSchema.parse({}), owner)
  await startNotes(engine, box.id)
  using lease = await engine.instances.use(box.id, tenant)
  await lease.exec(
    { command: 'head -c 3000000 /dev/urandom > /big', env: {} },
    {
      signal: new AbortController().signal,
      stream: false,
    },
  ).result
  await expect(engine.snapshots.pause(box.id, owner)).rejects.toMatchObject({ code: 'quota_exceeded' })
  expect((await engine.instances.get(box.id, tenant)).status).toBe('running')
  expect(await note(engine, box.id, 'a')).toBe('a')
})

test('a runtime that saves no memory refuses', async () => {
  const { engine } = await openForTest({ runtime: { capabilities: { checkpoint: false } } })
  const box = await make(engine)
  await expect(engine.snapshots.pause(box.id, OWNER)).rejects.toMatchObject({ code: 'unsupported' })
  expect((await engine.instances.get(box.id, tenant)).status).toBe('running')
})
