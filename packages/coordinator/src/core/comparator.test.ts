import { comparatorSchema, type JobResult } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import { fuzzyMatcher } from './comparator.ts'

const result = (stdout: string, more: Partial<JobResult> = {}): JobResult =>
  ({
    status: 'succeeded',
    exitCode: 0,
    stdout: { encoding: 'utf8', content: stdout, sizeBytes: stdout.length, sha256: stdout },
    stderr: { encoding: 'utf8', content: '', sizeBytes: 0, sha256: '' },
    truncated: false,
    outputs: {},
    ...more,
  }) as JobResult

const same = (a: unknown, b: unknown, options: Record<string, unknown> = {}): boolean => {
  const comparator = comparatorSchema.parse({ type: 'fuzzy', ...options })
  if (comparator.type !== 'fuzzy') throw new TypeError('not fuzzy')
  const text = (value: unknown): JobResult => result(typeof value === 'string' ? value : JSON.stringify(value))
  return fuzzyMatcher(comparator)(text(a), text(b))
}

describe('numbers', () => {
  it('may differ by the tolerance, relative to the larger one or absolute', () => {
    expect(same({ x: 1 }, { x: 1 + 1e-10 })).toBe(true)
    expect(same({ x: 1 }, { x: 1.001 })).toBe(false)
    expect(same({ x: 100 }, { x: 101 }, { relative: 0.01 })).toBe(true)
    expect(same({ x: 0 }, { x: 0.4 }, { absolute: 0.5 })).toBe(true)
    expect(same([0], [-0])).toBe(true)
  })

  it('that are too large for a double are near nothing but themselves', () => {
    expect(same('[1e999]', '[1e998]', { relative: 1, absolute: 1e308 })).toBe(true)
    expect(same('[1e999]', '[-1e999]', { relative: 1, absolute: 1e308 })).toBe(false)
    expect(same('[1e999]', '[1]', { relative: 1, absolute: 1e308 })).toBe(false)
    expect(same('[NaN]', '[NaN ]', { relative: 1 })).toBe(false)
  })

  it('are no text, and text is compared as it is', () => {
    expect(same({ x: 1 }, { x: '1' })).toBe(false)
    expect(same({ x: 'a' }, { x: 'b' }, { relative: 1 })).toBe(false)
    expect(same({ x: null }, { x: 0 }, { absolute: 1 })).toBe(false)
  })
})

describe('shape', () => {
  it('must be the same, whatever the order of names', () => {
    expect(same('{"a":1,"b":[1,2]}', '{"b":[1,2],"a":1.0}')).toBe(true)
    expect(same({ a: 1 }, { a: 1, b: 2 })).toBe(false)
    expect(same([1, 2], [1, 2, 3])).toBe(false)
    expect(same([1], { 0: 1 })).toBe(false)
    expect(same('{"__proto__":{"x":1}}', '{"__proto__":{"x":2}}')).toBe(false)
  })

  it('matters of standard output only; other contents by digest, endings always', () => {
    const match = fuzzyMatcher({ type: 'fuzzy', absolute: 1, relative: 0, fields: {}, ignore: [] })
    const [a, b] = [result('[1]'), result('[2]')]
    expect(match(a, b)).toBe(true)
    expect(match(a, { ...b, exitCode: 1, status: 'failed' })).toBe(false)
    expect(match(a, { ...b, status: 'timeout' })).toBe(false)
    const output = (sha256: string) => ({ o: { encoding: 'utf8', content: sha256, sizeBytes: 1, sha256 } as never })
    expect(match({ ...a, outputs: output('x') }, { ...b, outputs: output('x') })).toBe(true)
    expect(match({ ...a, outputs: output('x') }, { ...b, outputs: output('y') })).toBe(false)
    expect(match({ ...a, outputs: output('x') }, b)).toBe(false)
    const blob = (name: string) => result('', { stdout: { blob: name as never, sizeBytes: 1, sha256: name as never } })
    expect(match(blob('x'), blob('x'))).toBe(true)
    expect(match(blob('x'), blob('y'))).toBe(false)
  })
})

describe('pointers', () => {
  it('give a field a tolerance of its own; a name before a star', () => {
    const options = { fields: { '/rows/*/loss': { absolute: 0.5 }, '/rows/1/loss': { absolute: 0 } } }
    expect(same({ rows: [{ loss: 1 }] }, { rows: [{ loss: 1.4 }] }, options)).toBe(true)
    expect(same({ rows: [{ loss: 1, id: 1 }] }, { rows: [{ loss: 1, id: 1.4 }] }, options)).toBe(false)
    expect(same({ rows: [{ loss: 1 }, { loss: 1 }] }, { rows: [{ loss: 1 }, { loss: 1.4 }] }, options)).toBe(false)
  })

  it('let what is ignored differ, or be missing', () => {
    const options = { ignore: ['/time', '/*/at', '/a~1b'] }
    expect(same({ time: 'a', x: { at: [1] }, 'a/b': 1 }, { time: { b: 1 }, x: { at: 2 } }, options)).toBe(true)
    expect(same({ x: { by: 1 } }, { x: { by: 2 } }, options)).toBe(false)
  })
})

describe('hostile input', () => {
  it('that nests without end, or is no JSON, is compared as bytes', () => {
    const deep = `${'['.repeat(30_000)}1${']'.repeat(30_000)}`
    expect(same(deep, deep)).toBe(true)
    expect(same(deep, `${deep} `)).toBe(false)
    expect(same('{', '{ ')).toBe(false)
    expect(same('\ud800', '\ud801')).toBe(false)
  })

  it('with as many pointers as there may be costs what its size costs', () => {
    const ignore = Array.from({ length: 64 }, (_, index) =>
      Array.from({ length: 6 }, (_, bit) => `/${(index >> bit) & 1 ? '*' : 'a'}`).join(''),
    )
    const leaf = Array.from({ length: 2000 }, (_, index) => index)
    const nest = (value: unknown): unknown => [...'abcdef'].reduce<unknown>((inner) => ({ a: inner, z: leaf }), value)
    expect(same(nest({ x: 1 }), nest({ x: 2 }), { ignore })).toBe(true)
  })
})
