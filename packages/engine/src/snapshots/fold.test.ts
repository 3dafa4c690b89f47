import { expect, test } from 'vitest'
import { branch, make, merge, openForTest, read, restore, sh, take, write } from './testing.ts'

const branchesOf = async (engine: Parameters<typeof branch>[0], parent: string, count = 2): Promise<string[]> =>
  (await branch(engine, { parent, count, memory: false })).items.map(({ instanceId }) => instanceId)

test('branches of a running instance fold into one snapshot: their base is the seal that they began as', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await sh(engine, box.id, 'mkdir -p /tree; echo a > /tree/a; echo b > /tree/b; echo gone > /tree/gone')
  const [one = '', two = ''] = await branchesOf(engine, box.id)
  await sh(engine, one, 'echo one >> /tree/a; rm /tree/gone; echo new > /tree/one')
  await sh(engine, two, 'echo two >> /tree/b; echo new > /tree/two')
  // What the parent does since is none of theirs.
  await write(engine, box.id, '/tree/late', 'late')

  const { snapshot, conflicts, base } = await merge(engine, { branches: [one, two], name: 'merged' })
  expect({ conflicts, base }).toEqual({ conflicts: [], base: box.id })
  expect(snapshot).toMatchObject({ origin: 'merge', name: 'merged', source: box.id })
  const merged = await restore(engine, 'merged')
  expect((await sh(engine, merged.id, 'cat /tree/a /tree/b /tree/one /tree/two')).stdout).toBe(
    'a\none\nb\ntwo\nnew\nnew\n',
  )
  expect(await read(engine, merged.id, '/tree/gone')).toBeUndefined()
  expect(await read(engine, merged.id, '/tree/late')).toBeUndefined()
})

test('what both changed is a conflict, or settled as asked', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await write(engine, box.id, '/data', 'base')
  const [one = '', two = ''] = await branchesOf(engine, box.id)
  await write(engine, one, '/data', 'one')
  await write(engine, two, '/data', 'two')
  const failed = await merge(engine, { branches: [one, two] })
  expect(failed).toMatchObject({ conflicts: [{ path: 'data', kind: 'content', branches: [one, two] }] })
  expect(failed.snapshot).toBeUndefined()
  const { snapshot } = await merge(engine, { branches: [one, two], strategy: 'theirs' })
  const merged = await restore(engine, snapshot?.id ?? '')
  expect(await read(engine, merged.id, '/data')).toBe('two')
})

test('a branch folds into its parent, a merge into a third branch, and snapshots as they were', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await write(engine, box.id, '/base', 'base')
  const [one = '', two = '', three = ''] = await branchesOf(engine, box.id, 3)
  await write(engine, one, '/one', '1')
  await write(engine, two, '/two', '2')
  await write(engine, three, '/three', '3')
  await write(engine, box.id, '/parent', 'p')
  const withParent = await merge(engine, { branches: [box.id, one] })
  expect(withParent.conflicts).toEqual([])
  const taken = await take(engine, two, { memory: false })
  await write(engine, two, '/two', 'changed since')
  const first = await merge(engine, { branches: [withParent.snapshot?.id ?? '', taken.id] })
  const all = await merge(engine, { branches: [first.snapshot?.id ?? '', three] })
  const merged = await restore(engine, all.snapshot?.id ?? '')
  expect((await sh(engine, merged.id, 'cat /base /parent /one /two /three')).stdout).toBe('basep123')
})

test('with a base that is given, and without anything in common but the image', async () => {
  const { engine } = await openForTest()
  const [one, two] = [await make(engine), await make(engine)]
  await write(engine, one.id, '/same', 'same')
  const base = await take(engine, one.id, { memory: false })
  await write(engine, one.id, '/same', 'changed')
  await write(engine, two.id, '/same', 'same')
  await write(engine, two.id, '/two', '2')
  const apart = await merge(engine, { branches: [one.id, two.id] })
  expect(apart.conflicts).toHaveLength(1)
  expect(apart.base).toMatch(/^sha256:/)
  const given = await merge(engine, { branches: [one.id, two.id], base: base.id })
  expect(given).toMatchObject({ base: base.id, conflicts: [] })
  const merged = await restore(engine, given.snapshot?.id ?? '')
  expect(await read(engine, merged.id, '/same')).toBe('changed')
})

test('what is merged by name, of another image, or of nobody is refused', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await expect(merge(engine, { branches: [box.id, 'nobody'] })).rejects.toMatchObject({ code: 'not_found' })
  const other = { tenant: 'other', keyId: 'key' }
  await expect(merge(engine, { branches: [box.id] }, other)).rejects.toMatchObject({ code: 'not_found' })
})
