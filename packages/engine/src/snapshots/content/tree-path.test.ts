import { expect, test } from 'vitest'
import { pathOfEntry } from './tree-entry.ts'
import { isPathBelow, toBytePath, toTreePath } from './tree-path.ts'

const bytes = (text: string): string => Buffer.from(text).toString('latin1')

test('bytes are UTF-8 in a tree, or both path and target are base64', () => {
  expect(toTreePath('a/b')).toEqual({ path: 'a/b' })
  expect(toTreePath(bytes('grün/\u{1f33f}'))).toEqual({ path: 'grün/\u{1f33f}' })
  expect(toTreePath('a', bytes('grün'))).toEqual({ path: 'a', target: 'grün' })
  expect(toTreePath('\xff')).toEqual({ path: '/w==', encoding: 'base64' })
  expect(toTreePath('a', '\xff')).toEqual({ path: 'YQ==', encoding: 'base64', target: '/w==' })
  for (const path of ['a/b', bytes('grün'), '\xff\xfe/x', '\xef\xbb\xbfbom', ' \n\t']) {
    const { path: text, encoding } = toTreePath(path)
    expect(toBytePath(text, encoding)).toBe(path)
  }
})

test('a path stays below the root by its letters', () => {
  for (const path of ['a', 'a/b', '...', '..a/b', '.a', 'a/.b', 'n'.repeat(255)])
    expect(isPathBelow(path), path).toBe(true)
  const outside = [
    '',
    '/',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    'a/..',
    '../a',
    'a/../b',
    './a',
    'a/.',
    'a\0b',
    'n'.repeat(256),
  ]
  for (const path of [...outside, 'a/'.repeat(4096)]) expect(isPathBelow(path), path).toBe(false)
})

test('a path has one form only, so that none comes twice', () => {
  const deleted = (path: string, encoding?: 'base64') =>
    ({ type: 'deleted', path, ...(encoding && { encoding }) }) as const
  expect(pathOfEntry(deleted('/w==', 'base64'))).toBe('\xff')
  for (const entry of [
    deleted('YQ==', 'base64'),
    deleted('/x==', 'base64'),
    deleted('\ud800'),
    deleted('Li4=', 'base64'),
    deleted('../a'),
    { type: 'link', path: 'a', target: 'a' } as const,
    { type: 'link', path: 'a', target: 'b' } as const,
  ])
    expect(() => pathOfEntry(entry)).toThrow(expect.objectContaining({ code: 'import_refused' }))
})
