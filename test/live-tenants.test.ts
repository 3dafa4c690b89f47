import { createHash } from 'node:crypto'
import type { ExposedPort, Instance } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { until } from './leftovers.ts'
import { type Answer, type AskOptions, type LiveNode, openLiveNode } from './live-node.ts'
import { connectLive, connectStream, type LiveSocket, Refused } from './live-socket.ts'
import { openSshUser } from './live-ssh.ts'

/** An id of each kind that nobody has. */
const NOBODY = `ins_${'0'.repeat(26)}`
const SECRET = 'the secret of tenant a'

let node: LiveNode
let skip: string | undefined
/** Keys of two tenants, and one of the first that may only read. */
let a = ''
let b = ''
let reader = ''
let box: Instance
let stream: LiveSocket
let pty: LiveSocket
let session = ''
let executionId = ''
let sshKeyId = ''
let snapshotId = ''
let blobHash = ''

beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  a = (await node.newKey({ tenant: 'a' })).key
  b = (await node.newKey({ tenant: 'b' })).key
  reader = (await node.newKey({ tenant: 'a', scopes: ['read'] })).key
  await node.ask('PUT', '/api/v1/volumes/data', { key: a, json: { sizeMb: 64 } })
  box = await node.start({ name: 'home', volumes: [{ name: 'data', path: '/data' }], caches: ['npm'] }, a)
  await node.sh('home', `echo '${SECRET}' > /data/file; mkdir /www; echo '${SECRET}' > /www/index.html`, a)
  await node.sh('home', 'httpd -p 8000 -h /www', a)
  stream = await connectStream(node, 'home', { key: a })
  stream.send({ type: 'exec', id: 'job', command: `echo '${SECRET}'; sleep 1000` })
  await stream.event('stdout')
  pty = await connectLive(node, 'home', 'pty', { key: a })
  session = await pty.until(() => pty.messages.find(({ type }) => type === 'session')?.id as string | undefined)
  await node.ask('POST', '/api/v1/instances/home/ports', { key: a, json: { port: 8000 } })
  const command = { command: ['echo', SECRET], labels: { of: 'a' } }
  executionId = (await node.ask('POST', '/api/v1/execute', { key: a, json: command })).json<{ id: string }>().id
  const state = { instanceId: 'home', name: 'state', memory: false }
  snapshotId = (await node.ask('POST', '/api/v1/snapshots', { key: a, json: state })).json<{ id: string }>().id
  blobHash = (await node.ask('PUT', '/api/v1/blobs', { key: a, body: SECRET })).json<{ hash: string }>().hash
  const user = await openKeyless()
  const added = await node.ask('POST', '/api/v1/ssh-keys', { key: a, json: { name: 'a', publicKey: user } })
  sshKeyId = added.json<{ id: string }>().id
})
afterAll(async () => {
  stream?.[Symbol.dispose]()
  pty?.[Symbol.dispose]()
  await node?.[Symbol.asyncDispose]()
})
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

/** A public key that nobody has the other half of. */
const openKeyless = async (): Promise<string> => {
  const blob = Buffer.alloc(51)
  blob.writeUInt32BE(11, 0)
  blob.write('ssh-ed25519', 4)
  blob.writeUInt32BE(32, 15)
  return `ssh-ed25519 ${blob.toString('base64')} nobody`
}

interface Call extends AskOptions {
  readonly query?: string
  /** Where a request that is right would wait for its end. */
  readonly path?: Record<string, string>
}

/** A request of every route with something of a tenant in its path; a route that is missing here fails the test. */
const CALLS: Readonly<Record<string, Call>> = {
  'get /api/v1/executions/{id}': {},
  'delete /api/v1/executions/{id}': {},
  'get /api/v1/executions/{id}/logs': { query: 'follow=false' },
  'get /api/v1/instances/{id}': {},
  'delete /api/v1/instances/{id}': {},
  'post /api/v1/instances/{id}/stop': {},
  'post /api/v1/instances/{id}/start': {},
  'post /api/v1/instances/{id}/pause': {},
  'post /api/v1/instances/{id}/resume': {},
  'post /api/v1/instances/{id}/extend': { json: { ttlMs: 1000 } },
  'get /api/v1/instances/{id}/stats': {},
  'post /api/v1/instances/{id}/exec': { json: { command: 'id' } },
  'post /api/v1/containers/{id}/exec': { json: { command: 'id' } },
  'get /api/v1/instances/{id}/files/{path}': { path: { path: 'data/file' } },
  'head /api/v1/instances/{id}/files/{path}': { path: { path: 'data/file' } },
  'put /api/v1/instances/{id}/files/{path}': { path: { path: 'data/file' }, body: 'theirs' },
  'delete /api/v1/instances/{id}/files/{path}': { path: { path: 'data/file' } },
  'get /api/v1/instances/{id}/files': { query: 'list=/' },
  'post /api/v1/instances/{id}/files': { query: 'mkdir=/theirs' },
  'post /api/v1/instances/{id}/upload': {
    query: 'path=/',
    body: Buffer.alloc(1024),
    headers: { 'content-type': 'application/x-tar' },
  },
  'get /api/v1/instances/{id}/download': { query: 'path=/data' },
  'post /api/v1/instances/{id}/ports': { json: { port: 8000, visibility: 'public' } },
  'get /api/v1/instances/{id}/ports': {},
  'delete /api/v1/instances/{id}/ports/{port}': { path: { port: '8000' } },
  'post /api/v1/instances/{id}/snapshot': {},
  'post /api/v1/instances/{id}/branch': { json: { count: 1 } },
  'get /api/v1/snapshots/{id}': {},
  'patch /api/v1/snapshots/{id}': { json: { labels: { of: 'b' } } },
  'delete /api/v1/snapshots/{id}': {},
  'post /api/v1/snapshots/{id}/restore': {},
  'get /api/v1/snapshots/{id}/export': {},
  'get /api/v1/snapshots/{id}/diff/{other}': { path: { other: 'state' } },
  'get /api/v1/blobs/{hash}': {},
  'head /api/v1/blobs/{hash}': {},
  'delete /api/v1/blobs/{hash}': {},
  'delete /api/v1/ssh-keys/{id}': {},
  'get /api/v1/volumes/{name}': { path: { name: 'data' } },
  'delete /api/v1/volumes/{name}': { path: { name: 'data' } },
}

/** WebSockets, which are tried below; what belongs to the whole node or makes something of the caller's own. */
const ELSEWHERE =
  /\/(stream|pty|tunnel\/\{port\})$|^(delete \/api\/v1\/(images|keys|caches)|post \/api\/v1\/caches|put \/api\/v1\/volumes)\//

const idOf = (route: string): string => {
  if (route.includes('/snapshots/')) return snapshotId
  if (route.includes('/blobs/')) return blobHash
  return route.includes('/executions/') ? executionId : route.includes('/ssh-keys/') ? sshKeyId : box.id
}
const nobodyOf = (route: string): string => {
  if (/\/(snapshots|blobs)\//.test(route)) return '0'.repeat(64)
  return route.includes('/volumes/') ? 'nothing' : idOf(route).replace(/_.*/, `_${'0'.repeat(26)}`)
}

const send = (route: string, id: string, key: string): Promise<Answer> => {
  const [method = '', template = ''] = route.split(' ')
  const { query, path = {}, ...options } = CALLS[route] ?? {}
  const named = template.includes('/volumes/') ? { name: id } : { ...path, id, hash: id }
  const target = Object.entries(named).reduce((text, [name, value]) => text.replace(`{${name}}`, value), template)
  return node.ask(method.toUpperCase(), query === undefined ? target : `${target}?${query}`, { ...options, key })
}

/** An answer without what names the request itself. */
const shapeOf = ({ status, text }: Answer, id: string) => [
  status,
  text.replaceAll(id, 'ID').replace(/"requestId":"[^"]*"/, ''),
]

describe('what another tenant has', () => {
  test('is by every route of the node the same as what is not there', async () => {
    const { paths } = (await node.ask('GET', '/openapi.json')).json<{ paths: Record<string, object> }>()
    const routes = Object.entries(paths)
      .filter(([path]) => path.includes('{'))
      .flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method} ${path}`))
      .filter((route) => !ELSEWHERE.test(route))
    expect(routes.sort()).toEqual(Object.keys(CALLS).sort())
    for (const route of routes) {
      const none = nobodyOf(route)
      const absent = await send(route, none, b)
      expect(absent.status, route).toBe(404)
      const refs = route.includes('/volumes/') ? ['data'] : [idOf(route)]
      if (route.includes('{id}') && idOf(route) === box.id) refs.push('home')
      if (route.includes('/snapshots/')) refs.push('state')
      for (const ref of refs) expect(shapeOf(await send(route, ref, b), ref), route).toEqual(shapeOf(absent, none))
    }
    expect(await node.sh('home', 'cat /data/file; ls -d /theirs 2>&1 | wc -l; cat /www/index.html', a)).toBe(
      `${SECRET}\n1\n${SECRET}\n`,
    )
    expect((await node.ask('GET', `/api/v1/executions/${executionId}`, { key: a })).text).toContain(SECRET)
    expect((await node.ask('GET', '/api/v1/ssh-keys', { key: a })).text).toContain(sshKeyId)
  })

  test('is not changed by a key of its own tenant that may only read', async () => {
    for (const route of Object.keys(CALLS)) {
      if (/^(get|head) /.test(route)) continue
      const id = route.includes('/volumes/') ? 'data' : idOf(route)
      expect((await send(route, id, reader)).code, route).toBe('forbidden')
    }
    for (const [method, path, json] of [
      ['POST', '/api/v1/instances', {}],
      ['POST', '/api/v1/execute', { command: 'true' }],
      ['POST', '/api/v1/batch', { items: [{ command: 'true' }] }],
      ['PUT', '/api/v1/volumes/more', {}],
      ['DELETE', '/api/v1/caches/npm', undefined],
      ['POST', '/api/v1/ssh-keys', { name: 'x', publicKey: 'ssh-ed25519 AAAA' }],
      ['POST', '/api/v1/keys', { name: 'more', scopes: ['admin'] }],
      ['POST', '/api/v1/caches/npm/seed', undefined],
      ['POST', '/api/v1/prewarm', { image: 'base', count: 1 }],
      ['GET', '/api/v1/keys', undefined],
    ] as const)
      expect((await node.ask(method, path, { key: reader, json })).code, path).toBe('forbidden')
    // Nor does a key that may act do what is the admin's.
    for (const [method, path, json] of [
      ['POST', '/api/v1/keys', { name: 'more', scopes: ['admin'] }],
      ['GET', '/api/v1/keys', undefined],
      ['POST', '/api/v1/caches/npm/seed', undefined],
      ['POST', '/api/v1/images', { rootfsTar: '/etc/passwd', name: 'x' }],
      ['DELETE', `/api/v1/images/${box.imageDigest}`, undefined],
      ['GET', '/api/v1/pools', undefined],
      ['GET', '/api/v1/usage?tenant=a', undefined],
    ] as const)
      expect((await node.ask(method, path, { key: b, json })).code, path).toBe('forbidden')
    expect(await node.sh('home', 'cat /data/file', a)).toBe(`${SECRET}\n`)
  })

  test('is in no listing, no count and no answer kept for an Idempotency-Key', async () => {
    for (const path of [
      'instances',
      'executions',
      'volumes',
      'ssh-keys',
      'snapshots',
      'branches',
      'usage',
      'instances?label=of',
      'executions?label=of',
    ]) {
      const listed = await node.ask('GET', `/api/v1/${path}`, { key: b })
      expect(listed.json<{ items: unknown[] }>().items, path).toEqual([])
    }
    const headers = { 'idempotency-key': 'one' }
    const json = { command: ['echo', SECRET] }
    const mine = await node.ask('POST', '/api/v1/execute', { key: a, json, headers })
    const same = await node.ask('POST', '/api/v1/execute', { key: a, json, headers })
    expect(same.json<{ id: string }>().id).toBe(mine.json<{ id: string }>().id)
    const theirs = await node.ask('POST', '/api/v1/execute', { key: b, json: { command: ['echo', 'b'] }, headers })
    expect(theirs.json()).toMatchObject({ stdout: 'b\n' })
    const { items } = (await node.ask('GET', '/api/v1/usage', { key: b })).json<{ items: { tenant: string }[] }>()
    expect(items.map(({ tenant }) => tenant).filter((tenant) => tenant !== 'b')).toEqual([])
  })

  test('is on no WebSocket: by id, by name, by the session of a terminal, by the id of a command', async () => {
    const refusal = (ref: string, path: string): Promise<unknown> =>
      connectLive(node, ref, path, { key: b }).then(
        () => 'connected',
        (error: Refused) => [error.status, error.message.replaceAll(ref, 'ID')],
      )
    for (const path of ['stream', 'stream?since=0', 'pty', `pty?session=${session}`, 'tunnel/8000', 'tunnel/9'])
      for (const ref of [box.id, 'home']) expect(await refusal(ref, path), path).toEqual(await refusal(NOBODY, path))
    // From an instance of its own nothing leads there either, not even where the names are the same.
    const own = await node.start({ name: 'home' }, b)
    await expect(connectLive(node, 'home', `pty?session=${session}`, { key: b })).rejects.toThrow(Refused)
    using theirs = await connectStream(node, 'home', { key: b, query: 'since=0&processes=true' })
    expect(await theirs.event('state')).toMatchObject({ instanceId: own.id, commands: [], window: { last: 0 } })
    for (const message of [
      { type: 'stdin', id: 'job', data: 'x' },
      { type: 'signal', id: 'job', signal: 'KILL' },
      { type: 'resize', id: session, cols: 10, rows: 10 },
      { type: 'close_stdin', id: session },
    ])
      theirs.send(message)
    await theirs.until(() => theirs.messages.filter(({ code }) => code === 'not_found').length === 4)
    theirs.send({ type: 'exec', id: 'job', command: 'echo said by b' })
    await theirs.event('exit', ({ id }) => id === 'job')
    expect(theirs.output('job')).toBe('said by b\n')
    expect(JSON.stringify(theirs.messages)).not.toContain(SECRET)
    stream.send({ type: 'get_state' })
    await stream.event('state', ({ commands }) => commands.some(({ id }) => id === 'job'))
    expect(JSON.stringify(stream.messages)).not.toContain('said by b')
    expect((await node.ask('DELETE', '/api/v1/instances/home', { key: b })).status).toBe(204)
    expect(await node.sh('home', 'echo here', a)).toBe('here\n')
  })
})

test('volumes and caches of one name are apart: nothing of one tenant is ever in another’s', async () => {
  await node.ask('PUT', '/api/v1/volumes/data', { key: b, json: { sizeMb: 64 } })
  const cache = '/root/.npm/_cacache'
  const content = 'a package'
  const digest = createHash('sha512').update(content).digest('hex')
  const place = `${cache}/content-v2/sha512/${digest.slice(0, 2)}/${digest.slice(2, 4)}`
  const file = `${place}/${digest.slice(4)}`
  const write = (text: string): string => `mkdir -p ${place}; printf '${text}' > ${file}`
  await node.sh('home', write(content), a)
  const cacher = await node.start({ volumes: [{ name: 'data', path: '/data' }], caches: ['npm'] }, b)
  // Nor what is running, nor what was promoted when its sandbox ended.
  expect(await node.sh(cacher.id, `ls -AR ${cache}; ls -A /data | wc -l`, b)).not.toContain(digest.slice(4))
  expect(await node.sh(cacher.id, 'echo of b > /data/file; cat /data/file', b)).toBe('of b\n')
  await node.sh(cacher.id, write('poison'), b)
  for (const [ref, key] of [
    [box.id, a],
    [cacher.id, b],
  ] as const)
    for (const change of ['stop', 'start'])
      expect((await node.ask('POST', `/api/v1/instances/${ref}/${change}`, { key })).status).toBe(200)
  const next = async (key: string): Promise<string> => {
    const { id } = await node.start({ caches: ['npm'] }, key)
    const seen = await node.sh(id, `cat ${file} 2>/dev/null; true`, key)
    expect((await node.ask('DELETE', `/api/v1/instances/${id}`, { key })).status).toBe(204)
    return seen
  }
  expect([await next(a), await next(b)]).toEqual([content, ''])
  expect(await node.sh(box.id, `cat /data/file ${file}`, a)).toBe(`${SECRET}\n${content}`)
  expect((await node.ask('DELETE', '/api/v1/caches/npm', { key: b })).code).toBe('not_found')
  expect(await next(a)).toBe(content)
  expect((await node.ask('DELETE', `/api/v1/instances/${cacher.id}`, { key: b })).status).toBe(204)
  expect((await node.ask('DELETE', '/api/v1/volumes/data', { key: b })).status).toBe(204)
  expect(await node.sh(box.id, 'cat /data/file; httpd -p 8000 -h /www', a)).toBe(`${SECRET}\n`)
})

describe('a private port', () => {
  const get = (path: string, headers: Record<string, string> = {}, key = '') => node.ask('GET', path, { headers, key })

  test('is not there for another tenant, by path and by host name', async () => {
    const hosts = [`8000-home.localhost`, `8000-${box.id.replace('_', '-')}.localhost`]
    for (const ref of [box.id, 'home']) {
      expect((await get(`/p/${ref}/8000/`, {}, a)).text).toBe(`${SECRET}\n`)
      const refused = await get(`/p/${ref}/8000/`, {}, b)
      expect(shapeOf(refused, ref)).toEqual(shapeOf(await get(`/p/${NOBODY}/8000/`, {}, b), NOBODY))
    }
    for (const host of hosts) {
      expect((await get('/', { host: `${host}:${node.port}` }, a)).text).toBe(`${SECRET}\n`)
      expect((await get('/', { host: `${host}:${node.port}` }, b)).code).toBe('not_found')
      // What is the node's own is not reached under the name of an app, and the other way round.
      expect((await get('/api/v1/instances', { host: `${host}:${node.port}` }, b)).code).toBe('not_found')
    }
    expect((await get(`/p/home/8000/?token=${b}`)).code).toBe('not_found')
    for (const path of [`/p/home/8000/..%2f..%2f..%2fapi/v1/keys`, '/p/home/8000/../../../api/v1/instances'])
      expect((await get(path, {}, b)).status, path).not.toBe(200)
  })

  test('takes a signed URL as it was given, and none that was changed', async () => {
    const expose = async (ref: string, port: number, key: string, signedForMs?: number) =>
      (
        await node.ask('POST', `/api/v1/instances/${ref}/ports`, { key, json: { port, signedForMs } })
      ).json<ExposedPort>()
    const { url } = await expose('home', 8000, a, 60_000)
    const { pathname, search, searchParams } = new URL(url)
    expect((await get(pathname + search)).text).toBe(`${SECRET}\n`)
    await node.sh('home', 'httpd -p 8001 -h /www', a)
    await expose('home', 8001, a)
    const second = await node.start({ name: 'second' }, a)
    await expose('second', 8000, a)
    const theirs = await node.start({ name: 'home' }, b)
    const own = new URL((await expose('home', 8000, b, 60_000)).url)
    const expires = Number(searchParams.get('bramble_expires'))
    const signature = searchParams.get('bramble_signature')
    const changed = [
      pathname.replace('8000', '8001') + search,
      pathname.replace(box.id, second.id) + search,
      pathname.replace(box.id, theirs.id) + search,
      // Signed for the same port of an instance of the same name, of another tenant.
      pathname + own.search,
      `/p/home/8001/${search}`,
      `${pathname}?bramble_expires=${expires + 1}&bramble_signature=${signature}`,
      `${pathname}?bramble_expires=${expires}&bramble_signature=${signature?.slice(1)}A`,
      `${pathname}?bramble_expires=${expires}`,
    ]
    for (const path of changed) expect([(await get(path)).status, path]).toEqual([401, path])
    for (const path of changed.slice(0, 5)) expect((await get(path, {}, b)).text, path).not.toContain(SECRET)
    const short = new URL((await expose('home', 8000, a, 1000)).url)
    const isOver = async (): Promise<boolean> => (await get(short.pathname + short.search)).status === 401
    await until('the signature expired', isOver, 10_000)
    expect(Date.now()).toBeGreaterThan(Number(short.searchParams.get('bramble_expires')))
    for (const [id, key] of [
      [second.id, a],
      [theirs.id, b],
    ] as const)
      await node.ask('DELETE', `/api/v1/instances/${id}`, { key })
    // Closed and exposed anew, by the same tenant: what was signed before is void.
    await node.ask('DELETE', '/api/v1/instances/home/ports/8000', { key: a })
    await expose('home', 8000, a)
    expect((await get(pathname + search)).status).toBe(401)
  })
})

test('SSH lets nobody into an instance of another tenant, and does not say that it is there', async () => {
  const [mine, theirs] = await Promise.all([openSshUser(node.sshPort), openSshUser(node.sshPort)])
  await node.ask('POST', '/api/v1/ssh-keys', { key: a, json: { name: 'a', publicKey: mine.publicKey } })
  await node.ask('POST', '/api/v1/ssh-keys', { key: b, json: { name: 'b', publicKey: theirs.publicKey } })
  expect(await mine.ssh(['home@127.0.0.1', 'cat /data/file'])).toMatchObject({ code: 0, stdout: `${SECRET}\n` })
  expect(await mine.ssh(['home@127.0.0.1', 'cat /data/file'], { password: a })).toMatchObject({ code: 0 })
  const told = (text: string, ref: string): string => text.replaceAll(ref, 'ID')
  for (const password of [undefined, b, reader, `${a}x`]) {
    const [none, byId, byName] = await Promise.all(
      [NOBODY, box.id, 'home'].map((ref) => theirs.ssh([`${ref}@127.0.0.1`, 'cat /data/file'], { password })),
    )
    expect(none).toMatchObject({ code: 255, stdout: '', stderr: expect.stringContaining('Permission denied') })
    expect({ ...byId, stderr: told(byId?.stderr ?? '', box.id) }).toEqual({
      ...none,
      stderr: told(none?.stderr ?? '', NOBODY),
    })
    expect({ ...byName, stderr: told(byName?.stderr ?? '', 'home') }).toEqual({
      ...none,
      stderr: told(none?.stderr ?? '', NOBODY),
    })
  }
})
