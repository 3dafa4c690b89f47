import type { DiffEntry, TreeEntry } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { diffTrees } from './diff-trees.ts'
import { randomFrom } from './testing/random.ts'
import {
  applyTree,
  Contents,
  changed,
  directory,
  type Full,
  file,
  filesOf,
  full,
  symlink,
  treeOf,
} from './testing/world.ts'

const diff = async (image: Full, before: Full, after: Full) => {
  const contents = new Contents()
  const tree = (world: Full) => ({ entries: treeOf(image, world, contents) })
  return diffTrees(tree(before), tree(after), filesOf(image, contents).image)
}
const paths = ({ items }: { items: readonly DiffEntry[] }): string[] =>
  items.map(({ change, path }) => `${change} ${path}`)

describe('the difference of two trees', () => {
  const things = { 'd/a': 'one', 'd/b': 'two', l: symlink('x'), f: 'file' }

  test.each([
    ['the image', full(things), full(things)],
    ['the base', full({}), full(things)],
  ])('has what was added, changed and removed of %s, with sizes', async (_name, image, before) => {
    const after = changed(before, {
      'd/a': 'more than one',
      'd/b': null,
      n: directory(),
      'n/new': '12345',
      l: symlink('y'),
      f: file('file', { mode: 0o600 }),
    })
    expect(await diff(image, before, after)).toEqual({
      items: [
        { path: 'd/a', change: 'changed', type: 'file', beforeBytes: 3, afterBytes: 13 },
        { path: 'd/b', change: 'removed', type: 'file', beforeBytes: 3 },
        { path: 'f', change: 'changed', type: 'file', beforeBytes: 4, afterBytes: 4, attributesOnly: true },
        { path: 'l', change: 'changed', type: 'symlink' },
        { path: 'n', change: 'added', type: 'directory' },
        { path: 'n/new', change: 'added', type: 'file', afterBytes: 5 },
      ],
      truncated: false,
      totals: { added: 2, changed: 3, removed: 1, addedBytes: 15, removedBytes: 3 },
    })
    expect((await diff(image, after, before)).totals).toEqual({
      added: 1,
      changed: 3,
      removed: 2,
      addedBytes: 3,
      removedBytes: 15,
    })
    expect((await diff(image, after, after)).items).toEqual([])
  })

  test('tells of all that was in a directory of the image', async () => {
    const image = full({ 'usr/bin/x': '12', 'usr/lib/deep/y': '345', z: '' })
    const removed = await diff(image, image, changed(image, { usr: null }))
    expect(paths(removed)).toEqual(
      ['usr', 'usr/bin', 'usr/bin/x', 'usr/lib', 'usr/lib/deep', 'usr/lib/deep/y'].map((path) => `removed ${path}`),
    )
    expect(removed.totals.removedBytes).toBe(5)
    const replaced = await diff(image, changed(image, { usr: file('now') }), image)
    expect(paths(replaced)).toContain('changed usr')
    expect(paths(replaced)).toContain('added usr/lib/deep/y')
  })

  test('does not tell of what was copied only, nor of a directory in which something changed', async () => {
    const image = full({ 'd/a': 'one' })
    const contents = new Contents()
    const attributes = { mode: 0o644, uid: 0, gid: 0, modifiedNs: '1' }
    const copied: TreeEntry[] = [
      { type: 'directory', path: 'd', ...attributes, mode: 0o755, modifiedNs: '77' },
      { type: 'file', path: 'd/a', ...attributes, content: contents.add('one') },
    ]
    const { items } = await diffTrees({ entries: [] }, { entries: copied }, filesOf(image, contents).image)
    expect(items).toEqual([])
  })

  test('counts more than it tells', async () => {
    const many = full(
      Object.fromEntries(Array.from({ length: 10_050 }, (_, at) => [`f${String(at).padStart(5, '0')}`, 'x'])),
    )
    const { items, truncated, totals } = await diff(full({}), full({}), many)
    expect([items.length, truncated, totals.added, totals.addedBytes]).toEqual([10_000, true, 10_050, 10_050])
    expect(items.at(-1)?.path).toBe('f09999')
  })

  test('of random file systems is the difference of what they come to', async () => {
    const names = ['a', 'b', 'c']
    for (let seed = 0; seed < 500; seed++) {
      const random = randomFrom(seed)
      const edit = (world: Full): Full => {
        let next = world
        for (let count = random.below(8); count > 0; count--) {
          const path = Array.from({ length: 1 + random.below(3) }, () => random.pick(names)).join('/')
          const isFree = path.split('/').every((_, at, parts) => {
            const above = parts.slice(0, at).join('/')
            return at === 0 || (next.get(above)?.type ?? 'directory') === 'directory'
          })
          if (random.below(3) === 0) next = changed(next, { [path]: null })
          else if (isFree) next = changed(next, { [path]: file(`${random.below(99)}`) })
        }
        return next
      }
      const image = edit(full({}))
      const [before, after] = [edit(image), edit(image)]
      const contents = new Contents()
      for (const world of [before, after])
        expect(applyTree(image, treeOf(image, world, contents), contents)).toEqual(new Map(world))
      const expected = [...new Set([...before.keys(), ...after.keys()])].sort().flatMap((path) => {
        const [old, now] = [before.get(path), after.get(path)]
        if (JSON.stringify(old) === JSON.stringify(now)) return []
        return [`${old === undefined ? 'added' : now === undefined ? 'removed' : 'changed'} ${path}`]
      })
      expect(paths(await diff(image, before, after)), `seed ${seed}`).toEqual(expected)
    }
  })
})
