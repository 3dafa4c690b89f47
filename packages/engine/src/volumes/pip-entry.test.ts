import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { isArchiveAnswer } from './pip-entry.ts'

const directory = mkdtempSync(join(tmpdir(), 'bramble-pip-'))
afterAll(() => rmSync(directory, { recursive: true }))

type Value = string | number | null | Buffer | [string, Value][]

/** msgpack, as msgpack-python writes it. */
const pack = (value: Value): Buffer => {
  if (value === null) return Buffer.from([0xc0])
  if (typeof value === 'number')
    return value < 128
      ? Buffer.from([value])
      : Buffer.from(value < 256 ? [0xcc, value] : [0xcd, value >> 8, value & 255])
  if (typeof value === 'string') {
    const bytes = Buffer.from(value)
    return Buffer.concat([Buffer.from(bytes.length < 32 ? [0xa0 | bytes.length] : [0xd9, bytes.length]), bytes])
  }
  if (Buffer.isBuffer(value)) {
    const head = Buffer.from([0xc6, 0, 0, 0, 0])
    head.writeUInt32BE(value.length, 1)
    return Buffer.concat([head, value])
  }
  return Buffer.concat([Buffer.from([0x80 | value.length]), ...value.flatMap(([key, item]) => [pack(key), pack(item)])])
}

const entry = (headers: [string, Value][], { status = 200, body = Buffer.from('PK') } = {}): Value => [
  [
    'response',
    [
      ['body', body],
      ['headers', headers],
      ['status', status],
      ['version', 11],
      ['reason', 'OK'],
      ['decode_content', null],
    ],
  ],
  ['vary', []],
]
const written = (value: Value | Buffer, magic = 'cc=4,'): string => {
  const file = join(directory, 'entry')
  writeFileSync(file, Buffer.concat([Buffer.from(magic), Buffer.isBuffer(value) ? value : pack(value)]))
  return file
}
const TYPE: [string, Value] = ['Content-Type', 'application/octet-stream']

test('an archive passes, without what it could be revalidated by', async () => {
  const body = Buffer.alloc(100_000, 'ETag')
  const headers: [string, Value][] = [
    TYPE,
    ['ETag', '"1"'],
    ['last-MODIFIED', 'now'],
    ['Cache-Control', 'max-age=365000000'],
  ]
  const file = written(entry(headers, { body }))
  expect(await isArchiveAnswer(file)).toBe(true)
  const renamed: [string, Value][] = [
    TYPE,
    ['xTag', '"1"'],
    ['xast-MODIFIED', 'now'],
    ['Cache-Control', 'max-age=365000000'],
  ]
  expect(readFileSync(file).equals(Buffer.concat([Buffer.from('cc=4,'), pack(entry(renamed, { body }))]))).toBe(true)
})

test.each<[string, Value | Buffer, string?]>([
  ['a page', entry([['content-type', 'text/html']])],
  ['a page as JSON', entry([['Content-Type', 'application/vnd.pypi.simple.v1+json']])],
  ['a page that says two things', entry([TYPE, ['CONTENT-TYPE', 'text/html; charset=utf-8']])],
  ['a type that is no text', entry([['Content-Type', 7]])],
  ['a type that is too long to look at', entry([['Content-Type', `text/html;${' '.repeat(200)}`]])],
  ['a redirect', entry([TYPE, ['Location', 'http://evil/']], { status: 301 })],
  [
    'a second answer in it',
    [...(entry([TYPE]) as [string, Value][]), ...(entry([['content-type', 'text/html']]) as [string, Value][])],
  ],
  ['another version of the format', entry([TYPE]), 'cc=2,'],
  ['bytes after it', Buffer.concat([pack(entry([TYPE])), Buffer.from([0xc0])])],
  ['an end before its end', pack(entry([TYPE])).subarray(0, -3)],
  ['lengths past the end', Buffer.from([0x81, 0xdb, 0xff, 0xff, 0xff, 0xff])],
  ['maps without end', Buffer.alloc(1000, 0x81)],
  ['keys that are no text', Buffer.from([0x81, 0x01, 0x01])],
  ['extensions', Buffer.from([0xc7, 1, 1, 1])],
  ['nothing', Buffer.alloc(0)],
])('%s does not', async (_name, value, magic) => {
  expect(await isArchiveAnswer(written(value, magic))).toBe(false)
})
