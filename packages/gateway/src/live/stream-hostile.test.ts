import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import { connectLive, connectStream } from '../../test/live-client.ts'
import { openRealNode, type RealNode } from '../../test/real-node.ts'

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode({ limits: { liveStallMs: 300 } })
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

/** A right value of every field of every message, for which wrong ones are put in turn. */
const RIGHT: Record<string, Record<string, unknown>> = {
  exec: {
    id: 'x',
    command: ['true'],
    env: { A: 'b' },
    workdir: '/',
    user: 'root',
    stdin: true,
    pty: { cols: 80, rows: 24 },
  },
  stdin: { id: 'x', data: 'text', encoding: 'utf8' },
  close_stdin: { id: 'x' },
  signal: { id: 'x', signal: 'TERM' },
  resize: { id: 'x', cols: 80, rows: 24 },
  watch: { path: '/tmp', recursive: true },
  unwatch: { path: '/tmp' },
  checkpoint: { id: 'x', name: 'x', memory: false },
  get_state: {},
  stop: {},
}
/** Of the wrong type, too long, or not one of those that are known; and what each field alone must not be. */
const WRONG: Record<string, readonly unknown[]> = {
  id: [7, '', 'a b', 'é', 'x'.repeat(65), {}, null],
  command: [7, '', '  ', [], [7], ['a\0b'], { a: 1 }, null, 'a\0'],
  env: [7, 'A=b', { A: 7 }, { 'A=B': 'x' }, { A: 'x\0' }, [], null],
  workdir: [7, '', 'a\0b', '/'.repeat(4096), null],
  user: [7, '', 'a b', 'root;id', 'a:b:c', null],
  stdin: ['yes', 1, null],
  pty: [true, { cols: 0 }, { cols: 80, rows: 10_001 }, { cols: 1.5 }, { colums: 80 }, null],
  data: [7, null, ['a'], undefined],
  encoding: ['latin1', 7, null],
  signal: [0, 65, 1.5, {}, null, undefined, 'x'.repeat(17)],
  cols: [0, -1, 1.5, 10_001, '80', null, undefined],
  rows: [0, -1, 1.5, 10_001, '24', null, undefined],
  path: [7, '', 'a\0b', 'x'.repeat(4096), null, undefined],
  recursive: ['true', 1, null],
  name: [7, '', 'x'.repeat(129), '0', 'a b', null],
  memory: ['true', 1, null],
}

const CASES = Object.entries(RIGHT).flatMap(([type, fields]) => [
  ...Object.keys(fields).flatMap((field) =>
    (WRONG[field] ?? []).map((value) => ({ type, field, message: { type, ...fields, [field]: value } })),
  ),
  { type, field: '', message: { type, ...fields, unknown: 1 } },
])

describe('a message that is wrong', () => {
  test('is answered with the field that is, and the connection goes on', async () => {
    using stream = await connectStream(node, 'box')
    await stream.event('state')
    const before = stream.frames.length
    for (const { message } of CASES) stream.send(message as never)
    await stream.until((frames) => frames.length >= before + CASES.length)
    const answers = stream.events.slice(before)
    for (const [index, { type, field, message }] of CASES.entries()) {
      const answer = answers[index]
      const told = `${type} ${JSON.stringify(message).slice(0, 200)}`
      expect(answer, told).toMatchObject({ type: 'error', code: 'invalid_request' })
      if (answer?.type === 'error' && field !== '') expect(answer.message, told).toContain(`\`${field}`)
    }
    stream.send({ type: 'exec', id: 'after', command: 'echo fine' })
    await stream.event('exit')
    expect(stream.output('after').toString()).toBe('fine\n')
  })

  test.for<[string, string | Buffer, string]>([
    ['no JSON', '{"type":', 'invalid_json'],
    ['nothing', '', 'invalid_request'],
    ['no object', '7', 'invalid_request'],
    ['null', 'null', 'invalid_request'],
    ['a list', '[]', 'invalid_request'],
    ['no type', '{}', 'invalid_request'],
    ['a type that is none', '{"type":"reboot"}', 'invalid_request'],
    ['a binary frame', Buffer.from('{"type":"get_state"}'), 'invalid_request'],
    ['base64 that is none', '{"type":"stdin","id":"sink","data":"a","encoding":"base64"}', 'invalid_request'],
    ['a signal that is none', '{"type":"signal","id":"sink","signal":"SIGNOTHING"}', 'invalid_request'],
    ['a command that is gone', '{"type":"stdin","id":"gone","data":"x"}', 'not_found'],
    ['a name in use', '{"type":"exec","id":"sink","command":"true"}', 'conflict'],
    ['a snapshot whose name is none', '{"type":"checkpoint","name":"0 x"}', 'invalid_request'],
    ['a path that is not watched', '{"type":"unwatch","path":"/tmp"}', 'not_found'],
  ])('%s', async ([, message, code]) => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'exec', id: 'sink', command: ['sleep', '60'] })
    await stream.event('started')
    stream.send(message)
    expect(await stream.event('error')).toMatchObject({ code })
    stream.send({ type: 'signal', signal: 'KILL' })
    await stream.event('exit')
  })

  test('without a command of its own, what has no id is for none', async () => {
    using stream = await connectStream(node, 'box')
    stream.send({ type: 'close_stdin' })
    expect(await stream.event('error')).toMatchObject({ code: 'not_found' })
  })

  test('past the limit of a message the connection ends', async () => {
    using stream = await connectStream(node, 'box')
    stream.send(`{"type":"stdin","data":"${'x'.repeat(1024 * 1024)}"}`)
    expect((await stream.closed).code).toBe(1009)
  })

  test('text that is not UTF-8 ends the connection', async () => {
    using stream = await connectStream(node, 'box')
    stream.ws.send(Buffer.from([0x22, 0xff, 0x22]), { binary: false })
    expect((await stream.closed).code).toBe(1007)
  })
})

test('ten thousand watches: as many as are allowed stand, the others are refused', async () => {
  await node.sh('box', 'mkdir -p /many; cd /many; for i in $(seq 20); do mkdir -p d$i; done')
  using stream = await connectStream(node, 'box')
  await stream.event('state')
  for (let index = 0; index < 10_000; index++) stream.send({ type: 'watch', path: `/many/d${(index % 10_000) + 1}` })
  await stream.until(() => stream.events.filter(({ type }) => type === 'error').length >= 10_000 - 16)
  const codes = new Set(stream.events.flatMap((event) => (event.type === 'error' ? [event.code] : [])))
  expect([...codes]).toEqual(['quota_exceeded'])
  const { watches } = await stream.event('state', (state) => state.watches.length === 16)
  await node.sh('box', 'touch /many/d1/x')
  await stream.event('file_event', ({ path }) => path === '/many/d1/x')
  stream.ws.close()
  await stream.closed
  // All of them end with their connection.
  using next = await connectStream(node, 'box')
  for (const path of watches) next.send({ type: 'watch', path })
  await next.event('state', (state) => state.watches.length === 16)
})

test('as many commands as an instance may run at once, and no more', async () => {
  using stream = await connectStream(node, 'box')
  for (let index = 0; index < 70; index++) stream.send({ type: 'exec', id: `n${index}`, command: ['sleep', '600'] })
  stream.send({ type: 'get_state' })
  const { commands } = await stream.event('state', (state) => state.commands.length > 0)
  expect(commands.length).toBe(64)
  const refused = stream.events.flatMap((event) => (event.type === 'error' ? [[event.id, event.code]] : []))
  expect(refused).toEqual([64, 65, 66, 67, 68, 69].map((index) => [`n${index}`, 'quota_exceeded']))
  for (const { id } of commands) stream.send({ type: 'signal', id, signal: 'KILL' })
  await stream.until(() => stream.events.filter(({ type }) => type === 'exit').length === 64)
  stream.send({ type: 'exec', id: 'room', command: 'true' })
  await stream.event('exit', ({ id }) => id === 'room')
})

test('a client that takes nothing is cut off with what it was, and hinders nobody', async () => {
  using still = await connectStream(node, 'box')
  await still.event('state')
  still.ws.pause()
  using stream = await connectStream(node, 'box')
  stream.send({ type: 'exec', id: 'flood', command: ['head', '-c', '40000000', '/dev/zero'] })
  await stream.event('exit', ({ id }) => id === 'flood')
  expect(stream.output('flood').length).toBe(40_000_000)
  still.ws.resume()
  expect(await still.closed).toMatchObject({ code: 4408, reason: 'slow_consumer' })
  expect(still.events.at(-1)).toMatchObject({ type: 'error', code: 'slow_consumer' })
})

test('standard input that nobody reads stops its client, and grows nothing', async () => {
  using stream = await connectStream(node, 'box')
  stream.send({ type: 'exec', id: 'deaf', command: ['sleep', '60'] })
  await stream.event('started')
  const data = 'x'.repeat(500_000)
  for (let index = 0; index < 60; index++) stream.send({ type: 'stdin', id: 'deaf', data })
  // It is not heard any more: an answer does not come, and what is sent stays with the client.
  stream.send({ type: 'get_state' })
  using other = await connectStream(node, 'box')
  other.send({ type: 'get_state' })
  await other.until(() => other.events.filter(({ type }) => type === 'state').length === 2)
  expect(stream.events.filter(({ type }) => type === 'state').length).toBe(1)
  expect(stream.ws.bufferedAmount).toBeGreaterThan(1_000_000)
  other.send({ type: 'signal', id: 'deaf', signal: 'KILL' })
  await stream.until(() => stream.events.filter(({ type }) => type === 'state').length === 2)
})

describe('who may do what', () => {
  test('a key that may only read sees all and does nothing', async () => {
    const { key } = await node.newKey({ scopes: ['read'] })
    using viewer = await connectStream(node, 'box', { key })
    for (const message of [
      { type: 'exec', command: 'true' },
      { type: 'stdin', data: 'x' },
      { type: 'close_stdin' },
      { type: 'signal', signal: 9 },
      { type: 'resize', cols: 1, rows: 1 },
      { type: 'checkpoint' },
      { type: 'stop' },
    ] as const)
      viewer.send(message)
    await viewer.until(() => viewer.events.filter(({ type }) => type === 'error').length === 7)
    expect(new Set(viewer.events.flatMap((event) => (event.type === 'error' ? [event.code] : [])))).toEqual(
      new Set(['forbidden']),
    )
    using actor = await connectStream(node, 'box')
    actor.send({ type: 'exec', id: 'shown', command: 'echo shown' })
    await viewer.event('exit', ({ id }) => id === 'shown')
    expect(viewer.output('shown').toString()).toBe('shown\n')
    for (const path of ['pty', 'tunnel/80'])
      await expect(connectLive(node, `/api/v1/instances/box/${path}`, { key })).rejects.toMatchObject({ status: 403 })
  })

  test('another tenant finds nothing', async () => {
    const { key } = await node.newKey({ tenant: 'other' })
    for (const path of ['stream', 'pty', 'tunnel/80'])
      await expect(connectLive(node, `/api/v1/instances/box/${path}`, { key })).rejects.toMatchObject({
        status: 404,
        problem: { code: 'not_found' },
      })
  })

  test.for<[string, string, { key?: string; headers?: Record<string, string> }, number, string]>([
    ['no key', 'stream', { key: '' }, 401, 'unauthorized'],
    ['a key that is none', 'stream', { key: 'nonsense' }, 401, 'unauthorized'],
    ['a page of another origin', 'stream', { headers: { origin: 'https://evil.example' } }, 403, 'forbidden'],
    ['a page without an origin', 'stream', { headers: { origin: 'null' } }, 403, 'forbidden'],
    ['a parameter that is none', 'stream?sinse=1', {}, 400, 'invalid_request'],
    ['a number that is none', 'stream?since=-1', {}, 400, 'invalid_request'],
    ['a size that is none', 'pty?cols=0', {}, 400, 'invalid_request'],
    ['a terminal that is gone', 'pty?session=pty-gone', {}, 404, 'not_found'],
    ['a port that is none', 'tunnel/70000', {}, 400, 'invalid_request'],
    ['a port that nobody listens on', 'tunnel/9', {}, 502, 'port_closed'],
    ['a path that is none', 'nothing', {}, 404, 'not_found'],
  ])('%s is refused with a problem document', async ([, path, options, status, code]) => {
    await expect(connectLive(node, `/api/v1/instances/box/${path}`, options)).rejects.toMatchObject({
      status,
      problem: { status, code, requestId: expect.stringMatching(/^req_/) },
    })
  })

  test('the key may stand in the URL, and a page of this node may connect', async () => {
    const headers = { origin: node.gateway.url }
    using stream = await connectStream(node, 'box', { key: '', query: `token=${node.key}`, headers })
    await stream.event('state')
  })

  test('asked without an upgrade it says what it is', async () => {
    const response = await node.fetch('/api/v1/containers/box/stream')
    expect(await response.json()).toMatchObject({ status: 400, code: 'invalid_request' })
  })

  test('a handshake that is none is refused; an upgrade to anything else is not heeded', async () => {
    const upgradeTo = async (path: string, protocol: string): Promise<[number | undefined, string]> => {
      const headers = { connection: 'upgrade', upgrade: protocol, authorization: `Bearer ${node.key}` }
      const request = httpRequest({ port: node.gateway.port, path, headers }).end()
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      return [response.statusCode, await text(response)]
    }
    const [status, body] = await upgradeTo('/api/v1/containers/box/stream', 'websocket')
    expect([status, JSON.parse(body)]).toMatchObject([400, { code: 'invalid_request' }])
    expect(await upgradeTo('/ready', 'h2c')).toEqual([200, '{"status":"ready"}'])
  })
})
