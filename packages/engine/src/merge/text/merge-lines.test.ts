import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Random, randomFrom } from '../testing/random.ts'
import { diffLines } from './diff-lines.ts'
import { isText } from './lines.ts'
import { mergeLines, type TextMerge } from './merge-lines.ts'

const ENOUGH = { steps: 1e8 }
type Settle = Parameters<typeof mergeLines>[2]
const merge = (base: string, texts: readonly string[], settle: Settle = 'fail'): TextMerge =>
  mergeLines(
    Buffer.from(base),
    texts.map((text, place) => ({ bytes: Buffer.from(text), first: place, last: place })),
    settle,
    { ...ENOUGH },
  )
const clean = (base: string, ...texts: string[]): string => {
  const { bytes, conflicts } = merge(base, texts)
  expect(conflicts).toEqual([])
  return bytes.toString()
}
const lines = (...all: (string | number)[]): string => all.map((line) => `${line}\n`).join('')

describe('texts are merged by lines', () => {
  const base = lines(1, 2, 3, 4, 5, 6, 7, 8, 9)

  test('changes that do not touch are all taken, of any number of versions', () => {
    const a = base.replace('2', 'two')
    const b = base.replace('5', 'five')
    const c = base.replace('9\n', '')
    expect(clean(base, a, b, c)).toBe(lines(1, 'two', 3, 4, 'five', 6, 7, 8))
    expect(clean(base, c, a, b)).toBe(clean(base, a, b, c))
  })

  test('changes that touch disagree, and tell where', () => {
    const { conflicts } = merge(base, [base.replace('2', 'b'), base.replace('3', 'c'), base.replace('8', 'h')])
    expect(conflicts).toEqual([{ from: 2, to: 3 }])
    expect(merge(base, [`${base}a\n`, `${base}b\n`]).conflicts).toEqual([{ from: 10, to: 9 }])
  })

  test('equal changes are one', () => {
    const same = base.replace('4', 'four')
    expect(clean(base, same, same.replace('9', 'nine'))).toBe(same.replace('9', 'nine'))
  })

  test('line ends are kept, the missing last one too', () => {
    expect(clean('a\r\nb\r\nc\r\nd', 'A\r\nb\r\nc\r\nd', 'a\r\nb\r\nc\r\nD')).toBe('A\r\nb\r\nc\r\nD')
    expect(clean('a\nb\nc\nd\n', 'A\nb\nc\nd\n', 'a\nb\nc\nd')).toBe('A\nb\nc\nd')
    expect(merge('a', ['a\n', 'a\r\n']).conflicts).toHaveLength(1)
  })

  test('empty texts', () => {
    expect(clean('', '')).toBe('')
    expect(clean('a\n', '')).toBe('')
    expect(merge('', ['x\n', 'y\n']).conflicts).toEqual([{ from: 1, to: 0 }])
  })

  test('a side settles the places that disagree, and no other', () => {
    const a = base.replace('2', 'A').replace('9', 'a')
    const b = base.replace('2', 'B').replace('6', 'b')
    expect(merge(base, [a, b], 'ours').bytes.toString()).toBe(lines(1, 'A', 3, 4, 5, 'b', 7, 8, 'a'))
    expect(merge(base, [a, b], 'theirs').bytes.toString()).toBe(lines(1, 'B', 3, 4, 5, 'b', 7, 8, 'a'))
    expect(merge(base, [a, b], 'union').bytes.toString()).toBe(lines(1, 'A', 'B', 3, 4, 5, 'b', 7, 8, 'a'))
  })

  test('a union ends lines that are not the last any more, as the text does', () => {
    expect(merge('', ['a\r\nx', 'b\r\nx'], 'union').bytes.toString()).toBe('a\r\nb\r\nx')
    expect(merge('', ['a', 'b'], 'union').bytes.toString()).toBe('a\nb')
    expect(merge('k\r\n', ['k\r\na', 'k\r\nb'], 'union').bytes.toString()).toBe('k\r\na\r\nb')
  })

  test('what has a NUL, or too many lines, is no text', () => {
    expect(isText(Buffer.from('a\0b'))).toBe(false)
    expect(isText(Buffer.alloc(600_000, '\n'))).toBe(false)
    expect(isText(Buffer.from([0xff, 0xfe, 0x0a]))).toBe(true)
  })
})

describe('differences are right, whatever the texts are', () => {
  const apply = (before: Int32Array, after: Int32Array, hunks: ReturnType<typeof diffLines>): number[] => {
    const out: number[] = []
    let done = 0
    for (const { from, to, newFrom, newTo } of hunks) {
      out.push(...before.subarray(done, from), ...after.subarray(newFrom, newTo))
      done = to
    }
    return [...out, ...before.subarray(done)]
  }
  const longestCommon = (a: Int32Array, b: Int32Array): number => {
    let row = new Int32Array(b.length + 1)
    for (const line of a) {
      const next = new Int32Array(b.length + 1)
      b.forEach((other, at) => {
        next[at + 1] = line === other ? (row[at] ?? 0) + 1 : Math.max(row[at + 1] ?? 0, next[at] ?? 0)
      })
      row = next
    }
    return row[b.length] ?? 0
  }

  test('they lead from one to the other, by as few lines as there can be', () => {
    for (let seed = 0; seed < 2000; seed++) {
      const random = randomFrom(seed)
      const text = (): Int32Array =>
        Int32Array.from({ length: random.below(30) }, () => random.below(1 + random.below(8)))
      const [before, after] = [text(), text()]
      const hunks = diffLines(before, after, { ...ENOUGH })
      expect(apply(before, after, hunks), `seed ${seed}`).toEqual([...after])
      const removed = hunks.reduce((sum, { from, to }) => sum + to - from, 0)
      expect(before.length - removed, `seed ${seed}`).toBe(longestCommon(before, after))
    }
  })

  test('they are right, if coarser, when the budget is used up', () => {
    for (let seed = 0; seed < 300; seed++) {
      const random = randomFrom(seed)
      const text = (): Int32Array => Int32Array.from({ length: random.below(60) }, () => random.below(6))
      const [before, after] = [text(), text()]
      const budget = { steps: random.below(200) }
      expect(apply(before, after, diffLines(before, after, budget)), `seed ${seed}`).toEqual([...after])
    }
  })

  test('texts that are made to be slow take no more than their budget', () => {
    const random = randomFrom(7)
    const shuffled = (count: number, of: number): Int32Array =>
      Int32Array.from({ length: count }, () => random.below(of))
    const worst: [Int32Array, Int32Array][] = [
      [new Int32Array(400_000), new Int32Array(399_000)],
      [shuffled(200_000, 2), shuffled(200_000, 2)],
      [shuffled(200_000, 200_000), shuffled(200_000, 200_000)],
      [
        shuffled(200_000, 2).map((id, at) => (at % 2 ? id : 0)),
        shuffled(200_000, 2).map((id, at) => (at % 3 ? id : 0)),
      ],
    ]
    for (const [before, after] of worst) {
      const budget = { steps: 20_000_000 }
      const hunks = diffLines(before, after, budget)
      const expected =
        before.length - hunks.reduce((sum, { from, to, newFrom, newTo }) => sum + to - from - (newTo - newFrom), 0)
      expect(expected).toBe(after.length)
      // One snake, or one round of all diagonals, may run past the end.
      expect(budget.steps).toBeGreaterThan(-1_000_000)
    }
  })
})

describe('as git does', () => {
  const run = promisify(execFile)
  let directory = ''
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'bramble-merge-'))
  })
  afterAll(() => rm(directory, { recursive: true, force: true }))

  /** What `git merge-file` makes of it: its exit status is the number of conflicts. */
  const byGit = async (texts: readonly [string, string, string], option: string[]): Promise<string | undefined> => {
    const [base, a, b] = ['base', 'a', 'b'].map((name) => join(directory, name)) as [string, string, string]
    await Promise.all([writeFile(base, texts[0]), writeFile(a, texts[1]), writeFile(b, texts[2])])
    try {
      const { stdout } = await run('git', ['merge-file', '-p', ...option, a, base, b], { encoding: 'latin1' })
      return stdout
    } catch (thrown) {
      if (thrown instanceof Error && 'code' in thrown && Number(thrown.code) < 128) return undefined
      throw thrown
    }
  }

  const edit = (random: Random, text: readonly string[], words: number): string[] => {
    const edited = [...text]
    for (let count = random.below(4); count >= 0; count--) {
      const at = random.below(edited.length + 1)
      const fresh = Array.from({ length: random.below(3) }, () => `w${random.below(words)}`)
      edited.splice(at, random.below(3), ...fresh)
    }
    return edited
  }
  const joined = (random: Random, text: readonly string[], end: string): string =>
    text.join(end) + (random.below(5) === 0 || text.length === 0 ? '' : end)

  /** Few words make many lines that are equal, and so differences that are ambiguous. */
  const cases = (words: number, count: number): [string, string, string][] =>
    Array.from({ length: count }, (_, seed) => {
      const random = randomFrom(seed * 31 + words)
      const base = Array.from({ length: random.below(25) }, () => `w${random.below(words)}`)
      const end = random.below(4) === 0 ? '\r\n' : '\n'
      return [
        joined(random, base, end),
        joined(random, edit(random, base, words), end),
        joined(random, edit(random, base, words), end),
      ]
    })

  test.each([1000, 30, 6])('what it merges is merged, with equal bytes (%i different lines)', async (words) => {
    const differences: unknown[] = []
    let both = 0
    for (const texts of cases(words, 250)) {
      const theirs = await byGit(texts, [])
      const ours = merge(texts[0], texts.slice(1))
      if (theirs !== undefined) both++
      const mine = ours.conflicts.length > 0 ? undefined : ours.bytes.toString('latin1')
      if (mine !== theirs) differences.push({ texts, mine, theirs })
    }
    expect(both).toBeGreaterThan(50)
    expect(differences).toEqual([])
  })

  test('sides settle what it settles by `--ours` and `--theirs`', async () => {
    for (const texts of cases(1000, 100))
      for (const side of ['ours', 'theirs'] as const)
        expect(merge(texts[0], texts.slice(1), side).bytes.toString('latin1')).toBe(await byGit(texts, [`--${side}`]))
  })
})
