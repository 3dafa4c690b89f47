import type { MergeStrategy, TreeEntry } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Merged } from './merge.ts'
import { mergeTrees } from './merge-trees.ts'
import {
  applyTree,
  Contents,
  changed,
  directory,
  type Full,
  faultsOf,
  file,
  filesOf,
  full,
  symlink,
  type Thing,
  treeOf,
} from './testing/world.ts'
import { lineMerger } from './text/line-merger.ts'

type Changes = Record<string, Thing | string | null>

interface Result extends Merged {
  readonly world: Record<string, string>
  readonly things: Full
  readonly told: string[]
}

const merge = async (
  image: Full,
  base: Full,
  branches: readonly (Full | Changes)[],
  strategy: MergeStrategy = 'fail',
): Promise<Result> => {
  const contents = new Contents()
  const worlds = branches.map((branch) => (branch instanceof Map ? branch : changed(base, branch as Changes)))
  const tree = (world: Full) => ({ entries: treeOf(image, world, contents) })
  const merged = await mergeTrees(
    {
      base: tree(base),
      branches: worlds.map((world, place) => ({ ref: 'abcdef'[place] ?? '', tree: tree(world) })),
      strategy,
    },
    filesOf(image, contents),
  )
  expect(faultsOf(merged.entries ?? [])).toEqual([])
  const things = applyTree(image, merged.entries ?? [], contents)
  const shown = [...things].filter(([, { type }]) => type !== 'directory').map(([path, { text }]) => [path, text])
  return {
    ...merged,
    things,
    world: Object.fromEntries(shown.sort()),
    told: merged.conflicts.map(({ kind, path, branches: who }) => `${kind} ${path} ${who.join()}`),
  }
}

const BINARY = 'bin\0ary'

/** Each with the state in the image, and again in the snapshot that the branches began from. */
describe.each([
  ['of the image', (things: Record<string, Thing | string>): [Full, Full] => [full(things), full(things)]],
  ['of the base', (things: Record<string, Thing | string>): [Full, Full] => [full({}), full(things)]],
])('changes of what is %s', (_name, begin) => {
  const run = (things: Record<string, Thing | string>, branches: Changes[], strategy?: MergeStrategy) =>
    merge(...begin(things), branches, strategy)

  test('disjoint ones fold together', async () => {
    const { world, told, totals } = await run({ a: '1\n', b: '2\n', c: '3\n' }, [
      { a: '1a\n' },
      { b: null },
      { 'd/e': 'new' },
    ])
    expect(told).toEqual([])
    expect(world).toEqual({ a: '1a\n', c: '3\n', 'd/e': 'new' })
    expect(totals).toEqual({ taken: 4, merged: 0, conflicts: 0 })
  })

  test('equal ones are one', async () => {
    const { world, told } = await run({ a: '1' }, [{ a: '2', x: BINARY }, { a: '2', x: BINARY }, {}])
    expect(told).toEqual([])
    expect(world).toEqual({ a: '2', x: BINARY })
  })

  test('a text is merged by lines, of all branches', async () => {
    const text = '1\n2\n3\n4\n5\n6\n7\n'
    const { world, told, totals } = await run({ t: text }, [
      { t: text.replace('1', 'one') },
      { t: text.replace('4', 'four') },
      { t: text.replace('7\n', '') },
    ])
    expect(told).toEqual([])
    expect(world).toEqual({ t: 'one\n2\n3\nfour\n5\n6\n' })
    expect(totals.merged).toBe(1)
  })

  test('a text that was changed at one place is a conflict, with its lines', async () => {
    const branches: Changes[] = [{ t: '1\nA\n3\n' }, { t: '1\nB\n3\n' }, { t: '1\n2\n3\n', other: 'x' }]
    const { told, conflicts, entries } = await run({ t: '1\n2\n3\n' }, branches)
    expect(told).toEqual(['content t a,b'])
    expect(conflicts[0]?.lines).toEqual([{ from: 2, to: 2 }])
    expect(entries).toBeUndefined()
    expect((await run({ t: '1\n2\n3\n' }, branches, 'ours')).world.t).toBe('1\nA\n3\n')
    expect((await run({ t: '1\n2\n3\n' }, branches, 'theirs')).world.t).toBe('1\nB\n3\n')
    expect((await run({ t: '1\n2\n3\n' }, branches, 'union')).world).toEqual({ t: '1\nA\nB\n3\n', other: 'x' })
  })

  test('binary files: a side, or both', async () => {
    const branches: Changes[] = [{ f: `${BINARY}a` }, { f: `${BINARY}b` }]
    expect((await run({ f: BINARY }, branches)).told).toEqual(['content f a,b'])
    expect((await run({ f: BINARY }, branches, 'theirs')).world).toEqual({ f: `${BINARY}b` })
    const union = await run({ f: BINARY, 'f~b': 'taken' }, branches, 'union')
    expect(union.world).toEqual({ f: `${BINARY}a`, 'f~b': 'taken', 'f~b-2': `${BINARY}b` })
    expect(union.conflicts[0]?.settled).toBe('union')
  })

  test('attributes are merged apart from the content; the time is the later', async () => {
    const { things, told } = await run({ f: '1\n' }, [
      { f: file('2\n', { modifiedNs: '5' }) },
      { f: file('1\n', { mode: 0o755, modifiedNs: '1' }) },
      { f: file('1\n', { uid: 7, modifiedNs: '9', xattrs: { 'user.a': 'YQ==' } }) },
    ])
    expect(told).toEqual([])
    expect(things.get('f')).toEqual(file('2\n', { mode: 0o755, uid: 7, modifiedNs: '9', xattrs: { 'user.a': 'YQ==' } }))
  })

  test('attributes that were set in two ways are a conflict', async () => {
    const branches: Changes[] = [{ f: file('1', { mode: 0o600 }) }, { f: file('1', { mode: 0o755 }) }]
    expect((await run({ f: '1' }, branches)).told).toEqual(['attributes f a,b'])
    const { things, conflicts } = await run({ f: '1' }, branches, 'union')
    expect(things.get('f')?.mode).toBe(0o600)
    expect(conflicts[0]?.settled).toBe('ours')
    expect((await run({ f: '1' }, branches, 'theirs')).things.get('f')?.mode).toBe(0o755)
  })

  test('an extended attribute is taken away by one', async () => {
    const before = { f: file('1\n', { xattrs: { 'user.a': 'YQ==', 'user.b': 'Yg==' } }) }
    const { things } = await run(before, [
      { f: file('2\n', { xattrs: { 'user.a': 'YQ==', 'user.b': 'Yg==' } }) },
      { f: file('1\n', { xattrs: { 'user.a': 'YQ==' } }) },
    ])
    expect(things.get('f')).toEqual(file('2\n', { xattrs: { 'user.a': 'YQ==' } }))
  })

  test('what one removed and another changed is a conflict, what he only touched is not', async () => {
    const branches: Changes[] = [{ f: null }, { f: `${BINARY}x` }]
    expect((await run({ f: BINARY }, branches)).told).toEqual(['deleted f a,b'])
    expect((await run({ f: BINARY }, branches, 'ours')).world).toEqual({})
    expect((await run({ f: BINARY }, branches, 'theirs')).world).toEqual({ f: `${BINARY}x` })
    expect((await run({ f: BINARY }, branches, 'union')).world).toEqual({ f: `${BINARY}x` })
    expect((await run({ f: BINARY }, [{ f: null }, { f: file(BINARY, { modifiedNs: '5' }) }])).told).toEqual([])
  })

  test('a removed directory in which another put something', async () => {
    const before = { 'd/s/x': '1', 'd/y': '2', z: '3' }
    const branches: Changes[] = [{ d: null }, { 'd/s/new': 'n' }]
    expect((await run(before, branches)).told).toEqual(['deleted d a,b'])
    expect((await run(before, branches, 'ours')).world).toEqual({ z: '3' })
    expect((await run(before, branches, 'theirs')).world).toEqual({ 'd/s/new': 'n', z: '3' })
    expect((await run(before, branches, 'union')).world).toEqual({ 'd/s/new': 'n', z: '3' })
    expect((await run(before, [...branches].reverse(), 'ours')).world).toEqual({ 'd/s/new': 'n', z: '3' })
  })

  test('a removed directory in which another changed something', async () => {
    const before = { 'd/x': BINARY, 'd/y': '2', z: '3' }
    const branches: Changes[] = [{ d: null }, { 'd/x': `${BINARY}2`, 'd/new': 'n' }]
    expect((await run(before, branches)).told).toEqual(['deleted d/x a,b'])
    expect((await run(before, branches, 'ours')).world).toEqual({ z: '3' })
    expect((await run(before, branches, 'theirs')).world).toEqual({ 'd/x': `${BINARY}2`, 'd/new': 'n', z: '3' })
  })

  test('a directory that two removed is gone, a file that both made in it is not', async () => {
    expect((await run({ 'd/x': '1', z: '3' }, [{ d: null }, { d: null }])).world).toEqual({ z: '3' })
  })

  test('a file in place of a directory in which another put something', async () => {
    const branches: Changes[] = [{ d: file('file') }, { 'd/new': 'n' }]
    expect((await run({ 'd/x': '1' }, branches)).told).toEqual(['type d a,b'])
    expect((await run({ 'd/x': '1' }, branches, 'ours')).world).toEqual({ d: 'file' })
    expect((await run({ 'd/x': '1' }, branches, 'theirs')).world).toEqual({ 'd/new': 'n' })
    expect((await run({ 'd/x': '1' }, branches, 'union')).world).toEqual({ 'd/new': 'n', 'd~a': 'file' })
  })

  test('a directory in place of a file that another changed', async () => {
    const branches: Changes[] = [{ f: directory(), 'f/in': 'n' }, { f: `${BINARY}2` }]
    expect((await run({ f: BINARY }, branches)).told).toEqual(['type f a,b'])
    expect((await run({ f: BINARY }, branches, 'ours')).world).toEqual({ 'f/in': 'n' })
    expect((await run({ f: BINARY }, branches, 'theirs')).world).toEqual({ f: `${BINARY}2` })
    expect((await run({ f: BINARY }, branches, 'union')).world).toEqual({ 'f/in': 'n', 'f~b': `${BINARY}2` })
  })

  test('symlinks: one changed, both changed, a symlink against a file', async () => {
    expect((await run({ l: symlink('a') }, [{ l: symlink('b') }, {}])).world).toEqual({ l: 'b' })
    const both: Changes[] = [{ l: symlink('b') }, { l: symlink('c') }]
    expect((await run({ l: symlink('a') }, both)).told).toEqual(['content l a,b'])
    expect((await run({ l: symlink('a') }, both, 'union')).world).toEqual({ l: 'b', 'l~b': 'c' })
    const types: Changes[] = [{ l: symlink('b') }, { l: file('now a file') }]
    expect((await run({ l: symlink('a') }, types)).told).toEqual(['type l a,b'])
    expect((await run({ l: symlink('a') }, types, 'theirs')).world).toEqual({ l: 'now a file' })
  })

  test('one path that two added: equal, text, binary, directories', async () => {
    expect((await run({}, [{ n: 'x\n' }, { n: 'x\n' }])).world).toEqual({ n: 'x\n' })
    expect((await run({}, [{ n: 'x\n' }, { n: 'y\n' }])).told).toEqual(['content n a,b'])
    expect((await run({}, [{ n: 'k\nx\n' }, { n: 'k\ny\n' }], 'union')).world).toEqual({ n: 'k\nx\ny\n' })
    expect((await run({}, [{ n: BINARY }, { n: `${BINARY}2` }], 'union')).world).toEqual({
      n: BINARY,
      'n~b': `${BINARY}2`,
    })
    expect((await run({}, [{ 'n/a': '1' }, { 'n/b': '2' }])).world).toEqual({ 'n/a': '1', 'n/b': '2' })
    expect((await run({}, [{ n: directory({ mode: 0o700 }) }, { n: directory() }])).told).toEqual(['attributes n a,b'])
  })

  test('empty files, line ends, a missing last newline', async () => {
    expect((await run({ e: '' }, [{ e: 'x\n' }, {}])).world).toEqual({ e: 'x\n' })
    expect((await run({ e: 'x\n' }, [{ e: '' }, { e: file('x\n', { mode: 0o600 }) }])).world).toEqual({ e: '' })
    const { world } = await run({ t: 'a\r\nb\r\nc' }, [{ t: 'A\r\nb\r\nc' }, { t: 'a\r\nb\r\nC' }])
    expect(world).toEqual({ t: 'A\r\nb\r\nC' })
  })

  test('a change follows a file that another moved', async () => {
    const text = Array.from({ length: 9 }, (_, line) => `line ${line}\n`).join('')
    const edited = text.replace('line 7', 'seven')
    const exact = await run({ 'src/f.ts': text }, [{ 'src/f.ts': null, 'lib/f.ts': text }, { 'src/f.ts': edited }])
    expect(exact.told).toEqual([])
    expect(exact.world).toEqual({ 'lib/f.ts': edited })
    const similar = await run({ f: text, other: 'x' }, [{ f: null, g: text.replace('line 2', 'two') }, { f: edited }])
    expect(similar.told).toEqual([])
    expect(similar.world).toEqual({ g: edited.replace('line 2', 'two'), other: 'x' })
    const mode = await run({ f: BINARY }, [{ f: null, g: BINARY }, { f: file(BINARY, { mode: 0o755 }) }])
    expect(mode.things.get('g')?.mode).toBe(0o755)
    const clash = await run({ f: text }, [{ f: null, g: text.replace('line 7', '7') }, { f: edited }])
    expect(clash.told).toEqual(['content g a,b'])
  })

  test('a change follows to no one of two places, nor where a third removed the file', async () => {
    const branches: Changes[] = [{ f: null, g: BINARY, h: BINARY }, { f: `${BINARY}2` }]
    expect((await run({ f: BINARY }, branches)).told).toEqual(['deleted f a,b'])
    const third: Changes[] = [{ f: null, g: BINARY }, { f: `${BINARY}2` }, { f: null }]
    expect((await run({ f: BINARY }, third)).told).toEqual(['deleted f a,b,c'])
  })

  test('what is new in a directory follows where another moved the directory', async () => {
    const before = { 'src/a': '1\n', 'src/deep/b': '2\n', keep: 'k' }
    const moved = { src: null, 'lib/a': '1\n', 'lib/deep/b': '2\n' }
    const { world, told } = await run(before, [moved, { 'src/new': 'n', 'src/deep/x/y': 'm', 'src/a': '1\n2\n' }])
    expect(told).toEqual([])
    expect(world).toEqual({ 'lib/a': '1\n2\n', 'lib/deep/b': '2\n', 'lib/new': 'n', 'lib/deep/x/y': 'm', keep: 'k' })
    const part = await run(before, [{ src: null, 'lib/a': '1\n' }, { 'src/new': 'n' }])
    expect(part.told).toEqual(['deleted src a,b'])
  })

  test('names of one file: kept, parted, changed', async () => {
    const linked = (text: string): Thing => file(text, { inode: 1 })
    const before = { a: linked('1\n2\n3\n'), b: linked('1\n2\n3\n') }
    const inodes = ({ things }: Result): (number | undefined)[] =>
      ['a', 'b', 'c'].map((name) => things.get(name)?.inode)
    const edited = await run(before, [{ a: linked('x\n2\n3\n'), b: linked('x\n2\n3\n') }, { z: 'z' }])
    expect(edited.world).toEqual({ a: 'x\n2\n3\n', b: 'x\n2\n3\n', z: 'z' })
    expect(inodes(edited)).toEqual([1, 1, undefined])
    const both = await run(before, [
      { a: linked('x\n2\n3\n'), b: linked('x\n2\n3\n') },
      { a: linked('1\n2\ny\n'), b: linked('1\n2\ny\n') },
    ])
    expect(both.world).toEqual({ a: 'x\n2\ny\n', b: 'x\n2\ny\n' })
    expect(inodes(both)).toEqual([1, 1, undefined])
    const parted = await run(before, [{ a: file('1\n2\n3\n'), b: file('1\n2\n3\n') }, { z: 'z' }])
    expect(inodes(parted)).toEqual([undefined, undefined, undefined])
    const joined = await run(before, [{ c: linked('1\n2\n3\n') }, { z: 'z' }])
    expect(inodes(joined)).toEqual([1, 1, 1])
    const removed = await run(before, [{ a: null, b: file('1\n2\n3\n') }, { z: 'z' }])
    expect(removed.world).toEqual({ b: '1\n2\n3\n', z: 'z' })
    expect(inodes(removed)).toEqual([undefined, undefined, undefined])
  })
})

describe('trees', () => {
  test('are not changed by branches that changed nothing', async () => {
    const image = full({ 'etc/passwd': 'root\n', 'usr/bin/x': BINARY })
    const base = changed(image, { 'etc/passwd': 'root\nme\n', usr: null, 'home/me/.profile': 'p' })
    const contents = new Contents()
    const entries = treeOf(image, base, contents)
    const tree = { entries }
    const merged = await mergeTrees(
      {
        base: tree,
        branches: [
          { ref: 'a', tree },
          { ref: 'b', tree },
        ],
        strategy: 'fail',
      },
      filesOf(image, contents),
    )
    expect(merged.entries).toEqual(entries)
    expect(merged.totals).toEqual({ taken: 0, merged: 0, conflicts: 0 })
  })

  test('hold names that are no UTF-8', async () => {
    const raw = (...bytes: number[]) => Buffer.from(bytes).toString('base64')
    const attributes = { mode: 0o777, uid: 0, gid: 0, modifiedNs: '1' }
    const line = (target: string): TreeEntry => ({
      type: 'symlink',
      path: raw(0xff, 0x41),
      encoding: 'base64',
      target: Buffer.from(target).toString('base64'),
      ...attributes,
    })
    const plain: TreeEntry = { type: 'symlink', path: 'é', target: 'ü', ...attributes }
    const tree = (...entries: TreeEntry[]) => ({ entries })
    const contents = new Contents()
    const { entries, conflicts } = await mergeTrees(
      {
        base: tree(),
        branches: [
          { ref: 'a', tree: tree(line('x')) },
          { ref: 'b', tree: tree(plain) },
        ],
        strategy: 'fail',
      },
      filesOf(new Map(), contents),
    )
    expect(conflicts).toEqual([])
    expect(entries).toEqual([plain, line('x')])
    const union = await mergeTrees(
      {
        base: tree(),
        branches: [
          { ref: 'a', tree: tree(line('x')) },
          { ref: 'ö', tree: tree(line('y')) },
        ],
        strategy: 'union',
      },
      filesOf(new Map(), contents),
    )
    expect(union.conflicts).toEqual([
      { path: raw(0xff, 0x41), encoding: 'base64', kind: 'content', branches: ['a', 'ö'], settled: 'union' },
    ])
    expect(union.entries?.map(({ path }) => Buffer.from(path, 'base64').toString('latin1'))).toEqual([
      '\xffA',
      '\xffA~-',
    ])
  })

  test('are merged with large texts, in a thread, which ends when it is told to', async () => {
    const text = Array.from({ length: 40_000 }, (_, at) => `line ${at}\n`).join('')
    const branches: Changes[] = [{ t: text.replace('line 7\n', 'seven\n') }, { t: `${text}more\n` }, {}]
    const { world, told } = await merge(full({}), full({ t: text }), branches)
    expect(told).toEqual([])
    expect(world.t).toBe(`${text.replace('line 7\n', 'seven\n')}more\n`)
    const stop = new AbortController()
    await using lines = lineMerger(stop.signal)
    const bytes = Buffer.from(text)
    const request = { base: bytes, versions: [{ bytes, first: 0, last: 0 }], settle: 'fail', steps: 1 } as const
    expect((await lines.merge(request)).conflicts).toEqual([])
    const stopped = lines.merge(request)
    stop.abort(new Error('enough'))
    await expect(stopped).rejects.toThrow('enough')
  })

  test('what one made as the image has it, and another changed otherwise, is told in full', async () => {
    const image = full({ f: 'of the image\n' })
    const base = changed(image, { f: 'of the base\n' })
    const { things, told } = await merge(image, base, [
      { f: 'of the image\n' },
      { f: file('of the base\n', { mode: 0o600 }) },
    ])
    expect(told).toEqual([])
    expect(things.get('f')).toEqual(file('of the image\n', { mode: 0o600 }))
  })

  test('a merge stops when it is told to', async () => {
    const signal = AbortSignal.abort(new Error('enough'))
    const tree = { entries: [] }
    await expect(
      mergeTrees(
        { base: tree, branches: [{ ref: 'a', tree }], strategy: 'fail', signal },
        filesOf(new Map(), new Contents()),
      ),
    ).rejects.toThrow('enough')
  })

  test('more conflicts than a document holds are counted', async () => {
    const things = Object.fromEntries(Array.from({ length: 1100 }, (_, at) => [`f${at}`, BINARY]))
    const change = (by: string): Changes => Object.fromEntries(Object.keys(things).map((path) => [path, BINARY + by]))
    const { conflicts, truncated, totals } = await merge(full({}), full(things), [change('a'), change('b')])
    expect([conflicts.length, truncated, totals.conflicts]).toEqual([1000, true, 1100])
  })
})
