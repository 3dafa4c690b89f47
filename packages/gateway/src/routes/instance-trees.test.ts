import { readdir } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { crc32, deflateRawSync, gunzipSync, gzipSync } from 'node:zlib'
import { extract, type Header, pack } from 'tar-stream'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { problemOf } from '../../test/test-node.ts'

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode({
    limits: { maxArchiveEntries: 5000, maxUnpackedBytes: 8 * 1024 * 1024, maxZipRatio: 100, uploadStallMs: 300 },
  })
  if ('skip' in opened) return
  node = opened
  await node.start({ name: 'box' })
})
afterAll(async () => {
  if (!('skip' in opened)) await opened[Symbol.asyncDispose]()
})
beforeEach((context: TestContext) => {
  if ('skip' in opened) context.skip(opened.skip)
})

const upload = (path: string, type: string, body: Buffer | FormData, headers: Record<string, string> = {}) =>
  node.fetch(`/api/v1/instances/box/upload?path=${path}`, {
    method: 'POST',
    body: body as BodyInit,
    headers: { ...(type !== '' && { 'content-type': type }), ...headers },
  })

const tarOf = async (entries: [Partial<Header> & { name: string }, string?][]): Promise<Buffer> => {
  const tar = pack()
  for (const [header, content] of entries) tar.entry(header, content ?? '')
  tar.finalize()
  return await buffer(tar)
}

interface ZipEntry {
  name: string
  content?: string | Buffer
  /** Of a Unix, type and all. */
  mode?: number
  /** Where it claims to be, if not where it is. */
  at?: number
  size?: number
}

/** A zip archive (APPNOTE 6.3), right or wrong. */
const zipOf = (entries: readonly ZipEntry[]): Buffer => {
  const parts: Buffer[] = []
  const list: Buffer[] = []
  let offset = 0
  for (const { name, content = '', mode = 0o100644, at, size } of entries) {
    const plain = Buffer.from(content)
    const packed = deflateRawSync(plain)
    const path = Buffer.from(name)
    const fields = Buffer.alloc(26)
    fields.writeUInt16LE(20, 0)
    fields.writeUInt16LE(0x800, 2)
    fields.writeUInt16LE(8, 4)
    fields.writeUInt32LE(crc32(plain), 10)
    fields.writeUInt32LE(packed.length, 14)
    fields.writeUInt32LE(size ?? plain.length, 18)
    fields.writeUInt16LE(path.length, 22)
    const central = Buffer.alloc(14)
    central.writeUInt32LE((mode << 16) >>> 0, 6)
    central.writeUInt32LE(at ?? offset, 10)
    list.push(Buffer.from('PK\x01\x02\x14\x03', 'latin1'), fields, central, path)
    if (at !== undefined) continue
    parts.push(Buffer.from('PK\x03\x04'), fields, path, packed)
    offset += 4 + fields.length + path.length + packed.length
  }
  const directory = Buffer.concat(list)
  const end = Buffer.alloc(18)
  end.writeUInt16LE(entries.length, 4)
  end.writeUInt16LE(entries.length, 6)
  end.writeUInt32LE(directory.length, 8)
  end.writeUInt32LE(offset, 12)
  return Buffer.concat([...parts, directory, Buffer.from('PK\x05\x06'), end])
}

const TREE = 'find . | sort; cat a; cat d/b; ls -l d/b | cut -c1-10'
const TREE_OUTPUT = '.\n./a\n./d\n./d/b\none\ntwo\n-rwxr-x---\n'

describe('an upload', () => {
  test('of a tar, plain, packed, or packed on the way', async () => {
    const tar = await tarOf([
      [{ name: 'a' }, 'one\n'],
      [{ name: 'd', type: 'directory' }],
      [{ name: 'd/b', mode: 0o750 }, 'two\n'],
    ])
    for (const [path, type, body, headers] of [
      ['/tar', 'application/x-tar', tar, {}],
      ['/tgz', 'application/gzip', gzipSync(tar), {}],
      ['/coded', 'application/x-tar', gzipSync(tar), { 'content-encoding': 'gzip' }],
    ] as const) {
      const response = await upload(path, type, body, headers)
      expect(await response.json(), path).toMatchObject({ bytes: 8, skipped: 0 })
      expect(await node.sh('box', `cd ${path}; ${TREE}`), path).toBe(TREE_OUTPUT)
    }
  })

  test('of a zip, with modes and links', async () => {
    const zip = zipOf([
      { name: 'a', content: 'one\n' },
      { name: 'd/', mode: 0o40755 },
      { name: 'd/b', content: 'two\n', mode: 0o100750 },
    ])
    expect(await (await upload('/zip', 'application/zip', zip)).json()).toMatchObject({ bytes: 8 })
    expect(await node.sh('box', `cd /zip; ${TREE}`)).toBe(TREE_OUTPUT)
    await upload('/links', 'application/zip', zipOf([{ name: 'é', content: 'a/b', mode: 0o120777 }]))
    expect(await node.sh('box', 'readlink /links/é')).toBe('a/b\n')
  })

  test('of a form: files by their names, with folders where they say so', async () => {
    const form = new FormData()
    form.append('first', new Blob(['one\n']), 'a')
    form.append('second', new Blob([Buffer.alloc(2_000_000, 'x')]), 'big.bin')
    form.append('plain', 'of a field')
    const response = await upload('/form', '', form)
    expect(await response.json()).toEqual({ files: 3, bytes: 2_000_014, skipped: 0 })
    expect(await node.sh('box', 'cd /form; ls; cat a plain; wc -c < big.bin')).toBe(
      'a\nbig.bin\nplain\none\nof a field2000000\n',
    )
    const folders = Buffer.from(
      '--x\r\ncontent-disposition: form-data; name="f"; filename="sub/dir/é"\r\n\r\nin\r\n--x--\r\n',
    )
    expect((await upload('/form', 'multipart/form-data; boundary=x', folders)).status).toBe(200)
    expect(await node.sh('box', 'cat /form/sub/dir/é')).toBe('in')
  })

  test('of a zip with thousands of files', async () => {
    const names = Array.from({ length: 4900 }, (_, index) => ({ name: `d${index % 70}/f${index}`, content: 'x' }))
    const folders = Array.from({ length: 70 }, (_, index) => ({ name: `d${index}/`, mode: 0o40755 }))
    const response = await upload('/thousands', 'application/zip', zipOf([...folders, ...names]))
    expect(await response.json()).toMatchObject({ bytes: 4900 })
    expect(await node.sh('box', 'find /thousands -type f | wc -l')).toBe('4900\n')
  })

  test('as the user that is asked for', async () => {
    await node.sh('box', 'mkdir -m 777 /theirs')
    const tar = await tarOf([[{ name: 'a', uid: 0 }, 'x']])
    expect((await upload('/theirs/t&user=1234', 'application/x-tar', tar)).status).toBe(200)
    expect(await node.sh('box', 'stat -c %u /theirs/t/a')).toBe('1234\n')
    expect(await problemOf(await upload('/root/t&user=1234', 'application/x-tar', tar))).toMatchObject({
      code: 'file_refused',
    })
  })
})

const form = (name: string): Buffer =>
  Buffer.from(`--x\r\ncontent-disposition: form-data; name="f"; filename="${name}"\r\n\r\nevil\r\n--x--\r\n`)
const FORM = 'multipart/form-data; boundary=x'

describe('an upload that would leave its directory', () => {
  test.for<[string, string, () => Promise<Buffer> | Buffer]>([
    ['a tar with ..', 'application/x-tar', () => tarOf([[{ name: '../escaped' }, 'evil']])],
    ['a tar with an absolute name', 'application/x-tar', () => tarOf([[{ name: '/escaped' }, 'evil']])],
    ['a zip with ..', 'application/zip', () => zipOf([{ name: '../escaped', content: 'evil' }])],
    ['a zip with an absolute name', 'application/zip', () => zipOf([{ name: '/escaped', content: 'evil' }])],
    [
      'a zip through a link of its own',
      'application/zip',
      () =>
        zipOf([
          { name: 'out', content: '/', mode: 0o120777 },
          { name: 'out/escaped', content: 'evil' },
        ]),
    ],
    ['a form with ..', FORM, () => form('../escaped')],
    ['a form with an absolute name', FORM, () => form('/escaped')],
  ])('%s', async ([, type, make]) => {
    const response = await upload('/in', type, await make())
    expect(await problemOf(response)).toMatchObject({ code: expect.toBeOneOf(['invalid_request', 'file_refused']) })
    expect(await node.sh('box', 'ls /escaped 2>&1 || echo none')).toContain('none')
  })
})

describe('an upload that is wrong', () => {
  const files = (count: number): ZipEntry[] => Array.from({ length: count }, (_, index) => ({ name: `f${index}` }))
  test.for<[string, string, () => Promise<Buffer> | Buffer, object]>([
    ['no zip', 'application/zip', () => Buffer.from('not a zip'), { code: 'invalid_request' }],
    ['half a zip', 'application/zip', () => zipOf([{ name: 'a' }]).subarray(0, 60), { code: 'invalid_request' }],
    [
      'a zip that lies about a size',
      'application/zip',
      () => zipOf([{ name: 'a', content: 'x', size: 9 }]),
      { code: 'invalid_request' },
    ],
    ['a zip of too many files', 'application/zip', () => zipOf(files(5001)), { code: 'body_too_large' }],
    [
      'a zip that unpacks to too much',
      'application/zip',
      () => zipOf([{ name: 'a', content: Buffer.alloc(9 * 1024 * 1024) }]),
      { code: 'body_too_large' },
    ],
    [
      'a zip whose files are one and the same bytes',
      'application/zip',
      () => {
        const content = Buffer.alloc(20_000)
        return zipOf([{ name: 'a', content }, ...files(40).map((file) => ({ ...file, content, at: 0 }))])
      },
      { code: 'body_too_large' },
    ],
    ['no tar', 'application/x-tar', () => Buffer.alloc(1024, 'x'), { status: expect.toBeOneOf([400, 422]) }],
    [
      'half a tar',
      'application/x-tar',
      async () => (await tarOf([[{ name: 'a' }, 'x'.repeat(2000)]])).subarray(0, 1024),
      { status: expect.toBeOneOf([400, 422]) },
    ],
    ['no gzip', 'application/gzip', () => Buffer.from('not gzip'), { code: 'invalid_request' }],
    [
      'half a gzip',
      'application/gzip',
      async () => gzipSync(await tarOf([[{ name: 'a' }, 'x']])).subarray(0, 40),
      { code: 'invalid_request' },
    ],
    [
      'a gzip that unpacks to too much',
      'application/gzip',
      async () => gzipSync(await tarOf([[{ name: 'a' }, 'x'.repeat(9_000_000)]])),
      { code: 'body_too_large' },
    ],
    ['a form without an end', FORM, () => form('a').subarray(0, 70), { code: 'invalid_request' }],
    ['a form without a boundary', 'multipart/form-data', () => form('a'), { code: 'invalid_request' }],
    ['another type', 'text/plain', () => Buffer.from('x'), { code: 'unsupported_media_type' }],
  ])('%s', async ([, type, make, problem]) => {
    expect(await problemOf(await upload('/wrong', type, await make()))).toMatchObject(problem)
    // The connection, and the instance, go on.
    expect(await node.sh('box', 'echo fine')).toBe('fine\n')
  })

  test('its spooled archive is gone afterwards', async () => {
    expect(await (await upload('/spool', 'application/zip', zipOf([{ name: 'a' }]))).json()).toMatchObject({ files: 1 })
    expect(await readdir(`${node.directory}/uploads`)).toEqual([])
  })
})

describe('a download', () => {
  const download = (query: string) => node.fetch(`/api/v1/instances/box/download?${query}`)
  const namesIn = async (tar: Buffer): Promise<Record<string, string>> => {
    const found: Record<string, string> = {}
    for await (const entry of Readable.from(tar, { objectMode: false }).pipe(extract()))
      found[entry.header.name] = (await buffer(entry)).toString()
    return found
  }

  test('is a tar of the tree, packed where it is asked for', async () => {
    await node.sh('box', 'mkdir -p /out/d/e; echo one > /out/a; echo two > /out/d/e/b; ln -s a /out/link')
    const response = await download('path=/out')
    expect(response.headers.get('content-type')).toBe('application/x-tar')
    const found = await namesIn(Buffer.from(await response.arrayBuffer()))
    const names = Object.keys(found).map((name) => name.replace(/^\.\//, '').replace(/\/$/, ''))
    expect(names).toEqual(expect.arrayContaining(['a', 'd', 'd/e', 'd/e/b', 'link']))
    const packed = await download('path=/out&gzip=true')
    expect(packed.headers.get('content-type')).toBe('application/gzip')
    expect(await namesIn(gunzipSync(Buffer.from(await packed.arrayBuffer())))).toEqual(found)
  })

  test('says what is not there while it can', async () => {
    expect(await problemOf(await download('path=/nowhere'))).toMatchObject({ code: 'file_not_found' })
    expect(await problemOf(await download('path='))).toMatchObject({ code: 'invalid_request' })
    expect(await problemOf(await download('gzip=true'))).toMatchObject({ code: 'invalid_request' })
  })

  test('what goes down comes up the same', async () => {
    const tar = Buffer.from(await (await download('path=/out')).arrayBuffer())
    expect((await upload('/back', 'application/x-tar', tar)).status).toBe(200)
    expect(await node.sh('box', 'cd /back && find . | sort && cat d/e/b && readlink link')).toBe(
      await node.sh('box', 'cd /out && find . | sort && cat d/e/b && readlink link'),
    )
  })
})
