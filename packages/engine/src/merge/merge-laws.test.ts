import type { MergeStrategy, TreeEntry } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import type { Merged } from './merge.ts'
import { mergeTrees } from './merge-trees.ts'
import { type Random, randomFrom } from './testing/random.ts'
import {
  applyTree,
  Contents,
  directory,
  type Full,
  faultsOf,
  file,
  filesOf,
  symlink,
  type Thing,
  treeOf,
} from './testing/world.ts'

const NAMES = ['a', 'b', 'c']
const parent = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf('/')))
const below = (world: Full, path: string): string[] =>
  [...world.keys()].filter((other) => other === path || other.startsWith(`${path}/`))

let contents = 0
/** No text, and never the same: neither lines nor renames have a part in it. */
const fresh = (): string => `\0${++contents}`

const anyPath = (random: Random): string =>
  Array.from({ length: 1 + random.below(3) }, () => random.pick(NAMES)).join('/')

const put = (world: Map<string, Thing>, path: string, thing: Thing): void => {
  for (let above = parent(path); above !== ''; above = parent(above))
    if (world.get(above)?.type !== 'directory') {
      if (world.has(above)) world.delete(above)
      world.set(above, directory())
    }
  if (thing.type !== 'directory' || world.get(path)?.type !== 'directory')
    for (const other of below(world, path)) world.delete(other)
  world.set(path, thing)
}

const edit = (random: Random, before: Full, count: number): Map<string, Thing> => {
  const world = new Map(before)
  for (let left = random.below(count + 1); left > 0; left--) {
    const path = random.below(3) === 0 || world.size === 0 ? anyPath(random) : random.pick([...world.keys()])
    const thing = world.get(path)
    const what = random.below(8)
    if (what < 3) put(world, path, file(fresh()))
    else if (what === 3) put(world, path, symlink(fresh()))
    else if (what === 4) put(world, path, directory())
    else if (what < 7) for (const other of below(world, path)) world.delete(other)
    else if (thing !== undefined) world.set(path, { ...thing, mode: random.pick([0o600, 0o644, 0o755]) })
  }
  return world
}

interface Case {
  readonly image: Full
  readonly base: Full
  readonly branches: readonly Full[]
}

const caseOf = (seed: number, count: number, edits: number): Case => {
  const random = randomFrom(seed)
  const image = edit(random, new Map(), 14)
  const base = edit(random, image, 5)
  return { image, base, branches: Array.from({ length: count }, () => edit(random, base, edits)) }
}

const run = async (
  { image, base, branches }: Case,
  strategy: MergeStrategy = 'fail',
): Promise<{ merged: Merged; world: Full | undefined; entries: readonly TreeEntry[] | undefined }> => {
  const store = new Contents()
  const tree = (world: Full) => ({ entries: treeOf(image, world, store) })
  const merged = await mergeTrees(
    { base: tree(base), branches: branches.map((world, at) => ({ ref: `b${at}`, tree: tree(world) })), strategy },
    filesOf(image, store),
  )
  if (merged.entries === undefined) return { merged, world: undefined, entries: undefined }
  expect(faultsOf(merged.entries)).toEqual([])
  return { merged, world: applyTree(image, merged.entries, store), entries: merged.entries }
}

const told = ({ conflicts }: Merged): string[] => conflicts.map(({ path, kind }) => `${kind} ${path}`)
const shown = (world: Full | undefined): string => JSON.stringify([...(world ?? [])].sort())

/** One path, three ways, by its parts. `null`: they disagree. */
const oracle = (base: Thing | undefined, sides: readonly (Thing | undefined)[]): Thing | undefined | null => {
  const same = (left: Thing | undefined, right: Thing | undefined): boolean =>
    JSON.stringify(left) === JSON.stringify(right)
  const changed = sides.filter((side) => !same(side, base))
  if (changed.every((side) => same(side, changed[0]))) return changed.length > 0 ? changed[0] : base
  const things = changed.filter((side) => side !== undefined)
  if (things.length < changed.length) return null
  if (new Set(things.map(({ type }) => type)).size > 1) return null
  const like = base?.type === things[0]?.type ? base : undefined
  const part = <T>(of: (thing: Thing) => T): T | null => {
    const values = new Set(things.map(of).filter((value) => like === undefined || value !== of(like)))
    if (values.size > 1) return null
    const [value] = values
    return value ?? (like === undefined ? null : of(like))
  }
  const [text, mode] = [part((thing) => thing.text), part((thing) => thing.mode)]
  return text === null || mode === null || things[0] === undefined ? null : { ...things[0], text, mode }
}

/** The whole, in full; `null`: there is a conflict. */
const oracleOf = ({ base, branches }: Case): Full | null => {
  const result = new Map<string, Thing>()
  for (const path of new Set([base, ...branches].flatMap((world) => [...world.keys()]))) {
    const thing = oracle(
      base.get(path),
      branches.map((world) => world.get(path)),
    )
    if (thing === null) return null
    if (thing !== undefined) result.set(path, thing)
  }
  for (const path of result.keys())
    if (parent(path) !== '' && result.get(parent(path))?.type !== 'directory') return null
  return result
}

describe('random file systems', () => {
  test.each([
    [1, 6],
    [2, 3],
    [2, 8],
    [3, 2],
    [5, 3],
  ])('of %i branches come out as if each path were merged by itself', async (count, edits) => {
    let clean = 0
    for (let seed = 0; seed < 1000; seed++) {
      const one = caseOf(seed * 7 + count, count, edits)
      const expected = oracleOf(one)
      const { merged, world } = await run(one)
      expect(merged.conflicts.length === 0, `seed ${seed}: ${told(merged)}`).toBe(expected !== null)
      if (expected === null) continue
      clean++
      expect(shown(world), `seed ${seed}`).toBe(shown(expected))
    }
    expect(clean).toBeGreaterThan(30)
  })

  test('merged with what changed nothing, or with themselves, are what they are', async () => {
    for (let seed = 0; seed < 500; seed++) {
      const { image, base, branches } = caseOf(seed, 1, 8)
      const [a = base] = branches
      const store = new Contents()
      for (const sides of [[a], [a, base], [base, a], [a, a], [base, a, base, a]]) {
        const { entries } = await run({ image, base, branches: sides })
        expect(entries, `seed ${seed}`).toEqual(treeOf(image, a, store))
      }
    }
  })

  test('do not depend on the order of the branches', async () => {
    for (let seed = 0; seed < 500; seed++) {
      const { image, base, branches } = caseOf(seed, 3, 4)
      const [a = base, b = base, c = base] = branches
      const first = await run({ image, base, branches: [a, b, c] })
      for (const order of [
        [c, b, a],
        [b, c, a],
      ]) {
        const other = await run({ image, base, branches: order })
        expect(told(other.merged), `seed ${seed}`).toEqual(told(first.merged))
        expect(shown(other.world), `seed ${seed}`).toBe(shown(first.world))
      }
    }
  })

  test.each(['ours', 'theirs'] as const)('have %s wherever there was a conflict', async (strategy) => {
    let conflicts = 0
    for (let seed = 0; seed < 1000; seed++) {
      const one = caseOf(seed, 2, 6)
      const { merged, world } = await run(one, strategy)
      const side = one.branches[strategy === 'ours' ? 0 : 1]
      for (const { path, kind, settled } of merged.conflicts) {
        conflicts++
        expect(settled).toBe(strategy)
        const [mine, result] = [side?.get(path), world?.get(path)]
        if (kind === 'attributes') expect(result?.mode, `seed ${seed} ${path}`).toBe(mine?.mode)
        else expect([result?.type, result?.text], `seed ${seed} ${path}`).toEqual([mine?.type, mine?.text])
      }
    }
    expect(conflicts).toBeGreaterThan(200)
  })

  test('joined keep every file that a branch made or changed, and all conflicts are told', async () => {
    for (let seed = 0; seed < 1000; seed++) {
      const one = caseOf(seed, 3, 5)
      const { merged, world } = await run(one, 'union')
      expect(told(merged)).toEqual(told((await run(one)).merged))
      const texts = new Set([...(world ?? [])].map(([, { text }]) => text))
      for (const branch of one.branches)
        for (const [path, { text, type }] of branch)
          if (type !== 'directory' && one.base.get(path)?.text !== text)
            expect(texts, `seed ${seed} ${path}`).toContain(text)
    }
  })
})

test('texts that some branches moved and others changed come out moved and changed', async () => {
  const names = ['a', 'b', 'c', 'd', 'e']
  for (let seed = 0; seed < 200; seed++) {
    const random = randomFrom(seed)
    const text = (name: string): string[] => Array.from({ length: 20 }, (_, line) => `${name} ${line}\n`)
    const inImage = random.below(2) === 0
    const base = new Map(names.map((name) => [name, file(text(name).join(''))]))
    const branches = [new Map(base), new Map(base), new Map(base)]
    const expected = new Map<string, string>()
    for (const name of names) {
      const [first = 0, ...others] = [0, 1, 2].sort(() => random.below(3) - 1)
      const lines = text(name)
      const to = random.below(2) === 0 ? name : `moved/${name}`
      if (to !== name) {
        const own = random.below(2) === 0 ? lines : lines.with(0, 'moved\n')
        lines[0] = own[0] ?? ''
        branches[first]?.delete(name)
        put(branches[first] ?? new Map(), to, file(own.join('')))
      }
      others.forEach((branch, place) => {
        const line = 5 + 7 * place
        branches[branch]?.set(name, file(text(name).with(line, `changed by ${branch}\n`).join('')))
        lines[line] = `changed by ${branch}\n`
      })
      expected.set(to, lines.join(''))
    }
    const { merged, world } = await run({ image: inImage ? base : new Map(), base, branches })
    expect(merged.conflicts, `seed ${seed}`).toEqual([])
    const texts = [...(world ?? [])]
      .filter(([, { type }]) => type === 'file')
      .map(([path, thing]) => [path, thing.text])
    expect(Object.fromEntries(texts), `seed ${seed}`).toEqual(Object.fromEntries(expected))
  }
})
