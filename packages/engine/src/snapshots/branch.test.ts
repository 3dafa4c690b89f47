import { expect, test } from 'vitest'
import { branch, make, note, OWNER, openForTest, read, restore, sh, startNotes, take, write } from './testing.ts'

test('branches of a running instance have its files, and are changed by nobody else', async () => {
  const { engine } = await openForTest()
  const box = await make(engine, { name: 'parent', env: { WHO: 'me' }, labels: { of: 'parent' } })
  await write(engine, box.id, '/data', 'base')
  const { items } = await branch(engine, {
    parent: 'parent',
    count: 3,
    memory: false,
    env: { MORE: '1' },
    labels: { of: 'branch' },
  })
  expect(items).toHaveLength(3)
  expect(items.map(({ instance }) => instance)).toEqual(
    Array(3).fill(expect.objectContaining({ status: 'running', parent: box.id, labels: { of: 'branch' } })),
  )
  const [one, two] = items.map(({ instanceId }) => instanceId)
  await write(engine, one ?? '', '/data', 'one')
  await write(engine, box.id, '/data', 'after')
  expect(await read(engine, one ?? '', '/data')).toBe('one')
  expect(await read(engine, two ?? '', '/data')).toBe('base')
  expect((await sh(engine, two ?? '', 'echo $WHO $MORE')).stdout).toBe('me 1\n')
  const names = await Promise.all([box.id, one ?? '', two ?? ''].map((id) => sh(engine, id, 'hostname')))
  expect(new Set(names.map(({ stdout }) => stdout)).size).toBe(3)
})

test('each has its command, and a command that fails is a result beside the others', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  const { items } = await branch(engine, { parent: box.id, commands: ['echo a', 'exit 7', 'echo c >&2'] })
  expect(items.map(({ result }) => [result?.status, result?.exitCode, result?.stdout, result?.stderr])).toEqual([
    ['succeeded', 0, 'a\n', ''],
    ['failed', 7, '', ''],
    ['succeeded', 0, '', 'c\n'],
  ])
})

test('processes go on in a branch, and in the parent', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await startNotes(engine, box.id)
  expect(await note(engine, box.id, 'x')).toBe('x')
  const { items } = await branch(engine, { parent: box.id, count: 2 })
  expect(items.map(({ memory }) => memory)).toEqual([true, true])
  expect(await note(engine, box.id, 'y')).toBe('xy')
  for (const { instanceId } of items) expect(await note(engine, instanceId, 'z')).toBe('xz')
})

test('all or nothing: where one cannot be made, none is there', async () => {
  let made = 0
  const { engine, host } = await openForTest({
    runtime: { createFails: ({ from }) => (from && ++made === 3 ? new Error('no') : undefined) },
  })
  const box = await make(engine)
  await expect(branch(engine, { parent: box.id, count: 4 })).rejects.toThrow('no')
  expect((await engine.instances.list({ tenant: OWNER.tenant, limit: 10 })).items.map(({ id }) => id)).toEqual([box.id])
  expect(host.sandboxes.size).toBe(1)
  expect((await engine.snapshots.branches({ tenant: OWNER.tenant, limit: 10 })).items).toEqual([])
  expect(engine.status().reservedMemoryMb).toBe(512)
})

test('the quota of the key holds for all of them together', async () => {
  const { engine } = await openForTest({ limits: { instanceWaitMs: 50 } })
  const owner = { ...OWNER, quota: { concurrentSandboxes: 3 } }
  const box = await make(engine, {}, owner)
  await expect(branch(engine, { parent: box.id, count: 3 }, owner)).rejects.toMatchObject({ code: 'quota_exceeded' })
  expect((await branch(engine, { parent: box.id, count: 2 }, owner)).items).toHaveLength(2)
})

test('the tree: what descends from an instance or a snapshot, at any depth, also where what is between is gone', async () => {
  const { engine } = await openForTest()
  const root = await make(engine)
  const other = await make(engine)
  const child = (await branch(engine, { parent: root.id, count: 1 })).items[0]?.instanceId ?? ''
  const snapshot = await take(engine, child)
  const grandchild = await restore(engine, snapshot.id)
  const cousin = (await branch(engine, { parent: other.id, count: 1 })).items[0]?.instanceId ?? ''
  const ids = async (parent?: string) =>
    (
      await engine.snapshots.branches({ tenant: OWNER.tenant, limit: 10, ...(parent !== undefined && { parent }) })
    ).items.map(({ instanceId }) => instanceId)
  expect(await ids()).toEqual([child, grandchild.id, cousin])
  expect(await ids(root.id)).toEqual([child, grandchild.id])
  expect(await ids(snapshot.id)).toEqual([grandchild.id])
  await engine.instances.remove(child, OWNER.tenant)
  const { items } = await engine.snapshots.branches({ tenant: OWNER.tenant, limit: 10, parent: root.id })
  expect(items.map(({ instance }) => instance?.status)).toEqual([undefined, 'running'])
  expect(items[1]).toMatchObject({ parent: snapshot.id, parentKind: 'snapshot' })

  const first = await engine.snapshots.branches({ tenant: OWNER.tenant, limit: 2 })
  const rest = await engine.snapshots.branches({ tenant: OWNER.tenant, limit: 2, cursor: first.nextCursor ?? '' })
  expect([...first.items, ...rest.items].map(({ instanceId }) => instanceId)).toEqual([child, grandchild.id, cousin])
  expect((await engine.snapshots.branches({ tenant: 'other', limit: 10 })).items).toEqual([])
})

test('what is another tenant’s is not there', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  const stranger = { tenant: 'other', keyId: 'key_other' }
  await expect(branch(engine, { parent: box.id, count: 1 }, stranger)).rejects.toMatchObject({ code: 'not_found' })
})
