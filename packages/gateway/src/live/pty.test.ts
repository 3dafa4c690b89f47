import { afterAll, beforeAll, beforeEach, expect, type TestContext, test } from 'vitest'
import {
  bytesOf,
  connectLive,
  connectObserving,
  connectStream,
  type LiveClient,
  messagesOf,
} from '../../test/live-client.ts'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { openGateway } from '../open-gateway.ts'

const PTY_KEEP_MS = 150

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode({ limits: { ptyKeepMs: PTY_KEEP_MS } })
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

const connect = async (query = '', url = node.gateway.url): Promise<LiveClient & { id: string }> => {
  const client = await connectLive(node, `/api/v1/instances/box/pty?${query}`, { url })
  const id = await client.until(() => messagesOf(client).find(({ type }) => type === 'session')?.id)
  return Object.assign(client, { id: String(id) })
}
const shows = (client: LiveClient, text: string): Promise<boolean> =>
  client.until(() => bytesOf(client).includes(text) || undefined)
const type = (client: LiveClient, text: string): void => client.ws.send(Buffer.from(text))
const control = (client: LiveClient, message: unknown): void => client.ws.send(JSON.stringify(message))

test('a terminal is a login shell with its size, its environment and job control', async () => {
  using pty = await connect('cols=91&rows=17')
  type(pty, 'stty size; echo "<$TERM $LANG $SHELL>"; tty\n')
  await shows(pty, '\r\n17 91\r\n<xterm-256color C.UTF-8 /bin/sh>\r\n/dev/pts/')
  using stream = await connectObserving(node, 'box')
  type(pty, 'sleep 100\n')
  // Before the command has the terminal, the shell reads it byte by byte, and ^C is one of them.
  await stream.event('process_event', ({ command }) => command === 'sleep 100')
  type(pty, '\x03')
  await pty.until(() => /\^C.*# /s.test(bytesOf(pty).toString()))
  type(pty, 'echo "<$?>"\n')
  await shows(pty, '<130>')
  type(pty, "echo 'é漢🎉'\n")
  await shows(pty, 'é漢🎉\r\n')
  type(pty, 'exit 7\n')
  expect(await pty.closed).toMatchObject({ code: 1000 })
  expect(messagesOf(pty).at(-1)).toEqual({ type: 'exit', code: 7 })
})

test('runs the command that is asked for, as the user that is', async () => {
  using pty = await connect(`cmd=${encodeURIComponent('id -u; pwd; exit 3')}&user=1234&workdir=/tmp`)
  await pty.closed
  expect(bytesOf(pty).toString()).toBe('1234\r\n/tmp\r\n')
  expect(messagesOf(pty).at(-1)).toEqual({ type: 'exit', code: 3 })
})

test('takes signals and sizes; what is wrong is told and the terminal goes on', async () => {
  using pty = await connect('cmd=cat')
  const wrong = ['7', '{', '{"type":"resize","cols":0,"rows":1}', '{"type":"signal","signal":"NO"}', '{"type":"boo"}']
  for (const message of wrong) pty.ws.send(message)
  await pty.until(() => messagesOf(pty).filter((message) => message.type === 'error').length === wrong.length)
  type(pty, 'still here\n')
  await shows(pty, 'still here\r\nstill here')
  control(pty, { type: 'signal', signal: 'TERM' })
  await pty.closed
  expect(messagesOf(pty).at(-1)).toEqual({ type: 'exit', code: 143, signal: 'SIGTERM' })
})

test('two clients see one terminal; the last size counts', async () => {
  using first = await connect('cols=80&rows=24')
  using second = await connect(`session=${first.id}&cols=100&rows=30`)
  type(first, 'echo shared; stty size\n')
  for (const client of [first, second]) await shows(client, '\r\nshared\r\n30 100\r\n')
  control(first, { type: 'resize', cols: 60, rows: 20 })
  control(second, { type: 'resize', cols: 61, rows: 21 })
  // In its order: after the size of the same client.
  type(second, 'stty size\n')
  await shows(first, '21 61\r\n')
  first.ws.close(1000)
  await first.closed
  type(second, 'echo alone\n')
  await shows(second, '\r\nalone\r\n')
  type(second, 'exit\n')
  await second.closed
})

test('a client that vanished finds its terminal, with what it missed', async () => {
  using stream = await connectStream(node, 'box')
  using pty = await connect()
  type(pty, 'echo before; (sleep 0.05; echo meanwhile) &\n')
  await shows(pty, '\r\nbefore\r\n')
  pty.ws.terminate()
  await stream.until(() => stream.output(pty.id).includes('meanwhile\r\n') || undefined)
  using back = await connect(`session=${pty.id}`)
  await shows(back, '\r\nbefore\r\n')
  await shows(back, 'meanwhile\r\n')
  type(back, 'exit\n')
  await back.closed
})

test('one that nobody comes back to is hung up; so is one whose client says that it is done', async () => {
  using stream = await connectStream(node, 'box')
  using vanished = await connect()
  vanished.ws.terminate()
  expect(await stream.event('exit', ({ id }) => id === vanished.id)).toMatchObject({ signal: 'SIGHUP' })
  await expect(connect(`session=${vanished.id}`)).rejects.toMatchObject({ status: 404 })
  using done = await connect()
  done.ws.close(1000)
  expect(await stream.event('exit', ({ id }) => id === done.id)).toMatchObject({ signal: 'SIGHUP' })
})

test('goes on over another gateway, which hangs up what an earlier one left', async () => {
  using stream = await connectStream(node, 'box')
  const options = { engine: node.engine, version: '1', port: 0, limits: { ptyKeepMs: PTY_KEEP_MS } }
  const first = await openGateway({ ...options, dataDirectory: node.directory })
  using left = await connect('', first.url)
  using kept = await connect('', first.url)
  await first.close({ graceMs: 0 })
  expect(await left.closed).toMatchObject({ code: 1012 })
  await using second = await openGateway({ ...options, dataDirectory: node.directory })
  using back = await connect(`session=${kept.id}`, second.url)
  type(back, 'echo again\n')
  await shows(back, '\r\nagain\r\n')
  expect(await stream.event('exit', ({ id }) => id === left.id)).toMatchObject({ signal: 'SIGHUP' })
  type(back, 'exit\n')
  await back.closed
})

test('what is typed resumes a paused instance; one whose client is gone leaves it paused, and is hung up after', async () => {
  await node.start({ name: 'paused' })
  const change = (name: string) => node.fetch(`/api/v1/instances/paused/${name}`, { method: 'POST' })
  using stream = await connectStream(node, 'paused')
  const path = '/api/v1/instances/paused/pty'
  const session = (client: LiveClient) => client.until(() => messagesOf(client).find((it) => it.type === 'session')?.id)
  using typing = await connectLive(node, path)
  await session(typing)
  expect((await change('pause')).status).toBe(200)
  await stream.event('state', ({ status }) => status === 'paused')
  type(typing, 'echo aw""ake\n')
  await shows(typing, '\r\nawake\r\n')

  using left = await connectLive(node, path)
  const id = await session(left)
  left.ws.terminate()
  expect((await change('pause')).status).toBe(200)
  // As long as a terminal waits for its client, and longer.
  using boxStream = await connectStream(node, 'box')
  using other = await connect()
  other.ws.terminate()
  await boxStream.event('exit', (event) => event.id === other.id)
  expect((await change('resume')).status).toBe(200)
  expect(await stream.event('exit', (event) => event.id === id)).toMatchObject({ signal: 'SIGHUP' })
})

test('a deleted instance closes its terminals', async () => {
  const { id } = await node.start({})
  using pty = await connectLive(node, `/api/v1/instances/${id}/pty`)
  await shows(pty, '# ')
  await node.fetch(`/api/v1/instances/${id}`, { method: 'DELETE' })
  expect((await pty.closed).code).toBe(4404)
})
