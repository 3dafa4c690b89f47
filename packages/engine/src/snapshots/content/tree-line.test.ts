import { canonicalJson, type Json, treeEntrySchema } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { parseTreeLine } from './tree-line.ts'

const HASH = 'ab'.repeat(32)
const attributes = { mode: 0o644, uid: 0, gid: 0, modifiedNs: '1700000000123456789' }
const content = { sizeBytes: 5, sha256: HASH, pieces: [{ blob: HASH, sizeBytes: 9, offset: 2, length: 5 }] }
const LINES: readonly Record<string, unknown>[] = [
  { type: 'file', path: 'a/b', ...attributes, content },
  {
    type: 'file',
    path: 'YS//',
    encoding: 'base64',
    ...attributes,
    content,
    xattrs: { 'user.a': 'AAE=', 'user.b': '' },
  },
  { type: 'file', path: 'whole', ...attributes, content: { ...content, pieces: [{ blob: HASH, sizeBytes: 5 }] } },
  { type: 'link', path: 'b', target: 'a/b' },
  { type: 'directory', path: 'd', ...attributes },
  { type: 'symlink', path: 's', ...attributes, target: '../x' },
  { type: 'fifo', path: 'p', ...attributes },
  { type: 'deleted', path: 'gone' },
]

const accepts = (line: string): boolean => {
  try {
    parseTreeLine(line)
    return true
  } catch {
    return false
  }
}

const schemaAccepts = (line: string): boolean => treeEntrySchema.safeParse(JSON.parse(line)).success

test('every kind of line is what the schema makes of it', () => {
  for (const line of LINES) {
    const text = canonicalJson(line as Json)
    expect(parseTreeLine(text)).toEqual(treeEntrySchema.parse(line))
  }
})

const VALUES: readonly unknown[] = [
  null,
  true,
  '',
  'x',
  'base64',
  'file',
  'deleted',
  'toString',
  '__proto__',
  'x'.repeat(8192),
  'x'.repeat(8193),
  HASH,
  HASH.toUpperCase(),
  'AAE',
  '-12',
  '1'.repeat(21),
  '1e3',
  0,
  -0,
  -1,
  1.5,
  0o7777,
  0o10000,
  4_294_967_294,
  4_294_967_295,
  2 ** 53,
  2 ** 36,
  2 ** 36 + 1,
  [],
  {},
  [{}],
  content,
  content.pieces,
  { 'user.a': 'AAE=' },
  { 'user.a': 1 },
  { ['n'.repeat(256)]: '' },
]

/** Every place in a value, as the keys that lead there. */
const placesOf = (value: unknown, at: readonly string[] = []): string[][] =>
  typeof value === 'object' && value !== null
    ? Object.entries(value).flatMap(([key, member]) => [[...at, key], ...placesOf(member, [...at, key])])
    : []

const changed = (line: unknown, place: readonly string[], value: unknown): unknown => {
  const copy = structuredClone(line)
  let at = copy as Record<string, unknown>
  for (const key of place.slice(0, -1)) at = at[key] as Record<string, unknown>
  const last = place.at(-1) ?? ''
  if (value === undefined) delete at[last]
  else at[last] = value
  return copy
}

test('a line that is changed anywhere is taken or refused as the schema does it', () => {
  let tried = 0
  for (const line of LINES) {
    const places = [
      ...placesOf(line),
      ['encoding'],
      ['target'],
      ['xattrs'],
      ['content'],
      ['unknown'],
      ['content', 'more'],
    ]
    for (const place of places)
      for (const value of [undefined, ...VALUES]) {
        if (place[0] === 'content' && place.length > 1 && !('content' in line)) continue
        const text = JSON.stringify(changed(line, place, value))
        expect(accepts(text), text.slice(0, 300)).toBe(schemaAccepts(text))
        tried++
      }
  }
  expect(tried).toBeGreaterThan(2000)
})

test('what is no JSON is refused by its code', () => {
  for (const line of ['', '{', 'null', '[]', '"file"', '{"type":"device","path":"a"}'])
    expect(() => parseTreeLine(line)).toThrow(expect.objectContaining({ code: 'import_refused' }))
})
