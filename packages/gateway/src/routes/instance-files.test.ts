import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { buffer, text } from 'node:stream/consumers'
import { type FileEntry, fileEntrySchema, fileListSchema } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { problemOf } from '../../test/test-node.ts'

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode({ limits: { uploadStallMs: 200 } })
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

const base = '/api/v1/instances/box/files'
const put = (path: string, body: string | Buffer, headers: Record<string, string> = {}) =>
  node.fetch(base + path, { method: 'PUT', body: body as BodyInit, headers })
const get = (path: string, headers: Record<string, string> = {}) => node.fetch(base + path, { headers })
const entryOf = async (response: Response): Promise<FileEntry> => {
  expect(response.status).toBe(200)
  return fileEntrySchema.parse(await response.json())
}

/** A request as it stands: `fetch` would tidy its path. */
const raw = async (method: string, path: string, body?: Buffer): Promise<{ status: number; body: Buffer }> => {
  const headers = { authorization: `Bearer ${node.key}`, ...(body && { 'content-length': body.length }) }
  const request = httpRequest({ port: node.gateway.port, method, path, headers }).end(body)
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return { status: response.statusCode ?? 0, body: await buffer(response) }
}

describe('reading and writing', () => {
  test('a file comes back as it went, with its mode and owner', async () => {
    expect(await entryOf(await put('/srv/deep/file?mode=0750', 'content'))).toMatchObject({
      path: '/srv/deep/file',
      type: 'file',
      sizeBytes: 7,
      mode: 0o750,
    })
    const response = await get('/srv/deep/file')
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-length': '7',
      'content-type': 'application/octet-stream',
      'accept-ranges': 'bytes',
      'x-bramble-mode': '0750',
      'x-bramble-uid': '0',
      'x-bramble-gid': '0',
      'x-content-type-options': 'nosniff',
    })
    expect(await response.text()).toBe('content')
    const head = await node.fetch(`${base}/srv/deep/file`, { method: 'HEAD' })
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '7', ''])
    expect(head.headers.get('etag')).toBe(response.headers.get('etag'))
    expect(await entryOf(await put('/srv/deep/file', 'other'))).toMatchObject({ mode: 0o750, sizeBytes: 5 })
  })

  test('whatever its media type says, JSON and forms included', async () => {
    for (const type of ['application/json', 'multipart/form-data; boundary=x', 'text/plain', 'application/zip']) {
      expect((await put('/tmp/typed', '{"a":1', { 'content-type': type })).status, type).toBe(200)
      expect(await (await get('/tmp/typed')).text()).toBe('{"a":1')
    }
    expect((await raw('PUT', `${base}/tmp/typed`, Buffer.from('none'))).status).toBe(200)
    expect(await problemOf(await put('/tmp/typed', 'x', { 'content-encoding': 'br' }))).toMatchObject({ status: 415 })
    expect(await (await get('/tmp/typed')).text()).toBe('none')
    expect(await entryOf(await put('/tmp/empty', ''))).toMatchObject({ sizeBytes: 0 })
    const empty = await get('/tmp/empty')
    expect([empty.headers.get('content-length'), await empty.text()]).toEqual(['0', ''])
    expect(await (await get('/proc/1/status')).text()).toContain('Pid:\t1\n')
  })

  test('names are bytes', async () => {
    const name = '/tmp/%FF%0A%25%3F%23 x'.replace(' ', '%20')
    expect(await entryOf(await put(name, 'odd'))).toMatchObject({ encoding: 'base64' })
    expect(await (await get(name)).text()).toBe('odd')
    expect(await node.sh('box', "cat /tmp/$(printf '\\377')*")).toBe('odd')
    const entry = await entryOf(await node.fetch(`${base}?stat=${name}`))
    expect(Buffer.from(entry.path, 'base64').toString('latin1')).toBe('/tmp/\xff\n%?# x')
    expect((await node.fetch(base + name, { method: 'DELETE' })).status).toBe(204)
    expect(await problemOf(await get(name))).toMatchObject({ status: 404, code: 'file_not_found' })
  })

  test('a path leads nowhere but into the sandbox', async () => {
    const inside = (await raw('GET', `${base}/etc/passwd`)).body
    for (const path of [
      '/../../../../etc/passwd',
      '/%2e%2e/%2e%2e/etc/passwd',
      '//etc//passwd',
      '/etc/..%2fetc/passwd',
    ])
      expect(await raw('GET', base + path), path).toEqual({ status: 200, body: inside })
    await node.sh('box', 'ln -s / /tmp/root; ln -s ../../../../../.. /tmp/up')
    expect((await raw('GET', `${base}/tmp/up/etc/passwd`)).body).toEqual(inside)
    expect((await raw('GET', `${base}/tmp/root${node.directory}/admin.key`)).status).toBe(404)
    for (const path of ['/a%00b', '/a%', `/${'x'.repeat(4096)}`])
      expect((await raw('GET', base + path)).status, path).toBe(400)
    expect(JSON.parse((await raw('GET', '/api/v1/instances/%FF/files/x')).body.toString())).toMatchObject({
      status: 400,
    })
  })

  test('ranges, and copies that a client has', async () => {
    await put('/tmp/digits', '0123456789')
    const part = async (range: string, headers: Record<string, string> = {}) => {
      const response = await get('/tmp/digits', { range, ...headers })
      return [response.status, response.headers.get('content-range'), await response.text()]
    }
    expect(await part('bytes=2-4')).toEqual([206, 'bytes 2-4/10', '234'])
    expect(await part('bytes=-3')).toEqual([206, 'bytes 7-9/10', '789'])
    expect(await part('bytes=0-1,3-4')).toEqual([200, null, '0123456789'])
    const [status, range, body] = await part('bytes=10-')
    expect([status, range]).toEqual([416, 'bytes */10'])
    expect(JSON.parse(String(body))).toMatchObject({ code: 'range_not_satisfiable' })
    const tag = (await get('/tmp/digits')).headers.get('etag') ?? ''
    expect(await part('bytes=2-4', { 'if-range': tag })).toEqual([206, 'bytes 2-4/10', '234'])
    expect(await part('bytes=2-4', { 'if-range': '"other"' })).toEqual([200, null, '0123456789'])
    expect((await get('/tmp/digits', { 'if-none-match': tag })).status).toBe(304)
    await put('/tmp/digits', '9876543210')
    expect((await get('/tmp/digits', { 'if-none-match': tag })).status).toBe(200)
  })

  test('large bodies go by at constant memory, and arrive whole', async () => {
    const block = Buffer.alloc(1024 * 1024, 'block ')
    const blocks = 96
    async function* content() {
      for (let count = 0; count < blocks; count++) yield block
    }
    const request = { method: 'PUT', body: content() as unknown as BodyInit, duplex: 'half' } as RequestInit
    expect(await entryOf(await node.fetch(`${base}/tmp/large`, request))).toMatchObject({
      sizeBytes: blocks * block.length,
    })
    const response = await get('/tmp/large')
    let same = 0
    for await (const chunk of response.body ?? []) same += (chunk as Uint8Array).length
    expect(same).toBe(blocks * block.length)
    expect(await node.sh('box', 'sha256sum < /tmp/large; rm /tmp/large')).toContain('  -')
  })

  test('a directory is for listing, a file that is not there is said', async () => {
    const problem = await problemOf(await get('/etc'))
    expect(problem).toMatchObject({ status: 422, code: 'file_refused', detail: expect.stringContaining('list') })
    expect(await problemOf(await get('/etc', { range: 'bytes=0-1' }))).toMatchObject({ code: 'file_refused' })
    for (const method of ['GET', 'HEAD', 'DELETE'])
      expect((await node.fetch(`${base}/nowhere`, { method })).status).toBe(404)
    expect(await problemOf(await put('/etc/passwd/x', 'x'))).toMatchObject({ code: 'file_refused' })
    expect(await problemOf(await put('/etc', 'x'))).toMatchObject({ code: 'file_refused' })
  })

  test('with the permissions of the user that is asked for', async () => {
    await put('/root/secret?mode=0600', 'secret')
    expect(await problemOf(await get('/root/secret?user=1234'))).toMatchObject({ code: 'file_refused' })
    expect(await problemOf(await put('/root/secret?user=1234', 'x'))).toMatchObject({ code: 'file_refused' })
    expect(await entryOf(await put('/tmp/mine?user=1234', 'x'))).toMatchObject({ uid: 1234 })
    expect(await (await get('/root/secret')).text()).toBe('secret')
  })
})

describe('an upload that does not end', () => {
  const begin = async (path: string) => {
    const socket = connect(node.gateway.port, '127.0.0.1')
    await once(socket, 'connect')
    socket.write(
      [
        `PUT ${base}${path} HTTP/1.1`,
        'host: localhost',
        `authorization: Bearer ${node.key}`,
        'content-length: 1000000',
        '',
        '',
      ].join('\r\n'),
    )
    socket.write(Buffer.alloc(300_000, 'n'))
    return socket
  }
  /** Waits until the program in the sandbox that writes the file runs, or does not any more. */
  const writing = async (is: boolean): Promise<void> => {
    while ((await node.sh('box', 'ps -o args')).includes('/half/file') !== is);
  }

  test('leaves the old file, when its client vanishes', async () => {
    await put('/half/file', 'old')
    const socket = await begin('/half/file')
    await writing(true)
    socket.destroy()
    await writing(false)
    expect(await (await get('/half/file')).text()).toBe('old')
  })

  test('and when it stalls, which is told', async () => {
    await put('/half/file', 'old')
    const socket = await begin('/half/file')
    expect(await text(socket)).toContain('"code":"request_timeout"')
    expect(await (await get('/half/file')).text()).toBe('old')
    expect(await node.sh('box', 'ls -A /half')).toBe('file\n')
  })
})

describe('looking and changing', () => {
  test('lists, with links and types, sorted, whole trees too', async () => {
    await node.sh('box', 'mkdir -p /l/b/c; echo x > /l/a; ln -s a /l/link; mkfifo /l/pipe; touch /l/b/c/d')
    const list = async (query: string) => fileListSchema.parse(await (await node.fetch(`${base}?${query}`)).json())
    const { items, truncated } = await list('list=/l')
    expect(items.map(({ path, type, target }) => [path, type, target])).toEqual([
      ['/l/a', 'file', undefined],
      ['/l/b', 'directory', undefined],
      ['/l/link', 'symlink', 'a'],
      ['/l/pipe', 'fifo', undefined],
    ])
    expect(truncated).toBe(false)
    const tree = await list('list=/l&recursive=true')
    expect(tree.items.map(({ path }) => path)).toContain('/l/b/c/d')
    expect(await entryOf(await node.fetch(`${base}?stat=/l/link`))).toMatchObject({ type: 'symlink' })
    expect(await entryOf(await node.fetch(`${base}?stat=/l/link&followLinks=true`))).toMatchObject({ type: 'file' })
    expect(await problemOf(await node.fetch(`${base}?list=/l/a`))).toMatchObject({ code: 'file_refused' })
  })

  test('makes, moves, and sets modes, owners and times', async () => {
    const change = (query: string) => node.fetch(`${base}?${query}`, { method: 'POST' })
    expect(await entryOf(await change('mkdir=/c/d&parents=true&mode=0700'))).toMatchObject({ mode: 0o700 })
    expect(await problemOf(await change('mkdir=/q/r'))).toMatchObject({ code: 'file_not_found' })
    await put('/c/d/f', 'x')
    expect(await entryOf(await change('move=/c/d/f&to=/c/g'))).toMatchObject({ path: '/c/g' })
    expect(await entryOf(await change('chmod=/c/g&mode=4755'))).toMatchObject({ mode: 0o4755 })
    expect(await entryOf(await change('chown=/c/g&uid=12&gid=34'))).toMatchObject({ uid: 12, gid: 34 })
    const modifiedAt = '2020-01-02T03:04:05.000Z'
    expect(await entryOf(await change(`touch=/c/g&modifiedAt=${modifiedAt}`))).toMatchObject({ modifiedAt })
    expect(await problemOf(await node.fetch(`${base}/c`, { method: 'DELETE' }))).toMatchObject({ code: 'file_refused' })
    expect((await node.fetch(`${base}/c?recursive=true`, { method: 'DELETE' })).status).toBe(204)
    for (const query of [
      '',
      'mkdir=',
      'chmod=/x',
      'chmod=/x&mode=999',
      'chown=/x&uid=1',
      'move=/x',
      'boo=/x',
      'move=/a&to=/b&to=/c',
    ])
      expect((await change(query)).status, query).toBe(400)
  })
})
