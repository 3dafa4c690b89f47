import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, expect, type TestContext, test } from 'vitest'
import { bytesOf, connectLive, connectObserving, type LiveClient, type StreamClient } from '../../test/live-client.ts'
import { openRealNode, type RealNode } from '../../test/real-node.ts'

const MAX_TUNNELS = 8

let opened: RealNode | { skip: string }
let node: RealNode
let stream: StreamClient
beforeAll(async () => {
  opened = await openRealNode({ limits: { maxTunnels: MAX_TUNNELS } })
  if ('skip' in opened) return
  node = opened
  await node.start({ name: 'box' })
  stream = await connectObserving(node, 'box')
})
afterAll(async () => {
  if ('skip' in opened) return
  stream[Symbol.dispose]()
  await opened[Symbol.asyncDispose]()
})
beforeEach((context: TestContext) => {
  if ('skip' in opened) context.skip(opened.skip)
})

/** Starts a server in the sandbox and waits until it listens. */
const listen = async (port: number, command: string): Promise<void> => {
  stream.send({ type: 'exec', id: `server-${port}`, command })
  await stream.event('port_event', (event) => event.port === port && event.event === 'open')
}
const tunnel = (port: number): Promise<LiveClient> => connectLive(node, `/api/v1/instances/box/tunnel/${port}`)

test('carries bytes of any kind both ways, and ends with the other side', async () => {
  await listen(5001, 'nc -ll -p 5001 -e cat')
  using client = await tunnel(5001)
  const bytes = randomBytes(3_000_000)
  for (let at = 0; at < bytes.length; at += 500_000) client.ws.send(bytes.subarray(at, at + 500_000))
  // `cat` ends when its input does.
  client.ws.send('{"type":"end"}')
  expect(await client.closed).toMatchObject({ code: 1000 })
  expect(bytesOf(client).equals(bytes)).toBe(true)
})

test('what was sent before the client closed still arrives', async () => {
  await listen(5002, 'nc -l -p 5002 > /tmp/received; echo done')
  using client = await tunnel(5002)
  client.ws.send(Buffer.alloc(200_000, 'x'))
  client.ws.close()
  await stream.event('exit', ({ id }) => id === 'server-5002')
  expect(await node.sh('box', 'wc -c < /tmp/received')).toBe('200000\n')
})

test('a client that takes nothing stops the sender, and loses nothing', async () => {
  await listen(5003, 'nc -ll -p 5003 -e head -c 30000000 /dev/zero')
  using client = await tunnel(5003)
  client.ws.pause()
  using other = await tunnel(5003)
  await other.closed
  expect(bytesOf(other).length).toBe(30_000_000)
  client.ws.resume()
  expect(await client.closed).toMatchObject({ code: 1000 })
  expect(bytesOf(client).length).toBe(30_000_000)
})

test('a sandbox that takes little at a time holds its client again and again, and no more is kept for it', async () => {
  await listen(5006, 'nc -l -p 5006 | while head -c 65536 | grep -q .; do :; done')
  using client = await tunnel(5006)
  const warnings: Error[] = []
  const onWarning = (warning: Error): number => warnings.push(warning)
  process.on('warning', onWarning)
  for (let at = 0; at < 64; at++) client.ws.send(Buffer.alloc(200_000, 'x'))
  client.ws.close()
  await stream.event('exit', ({ id }) => id === 'server-5006')
  process.off('warning', onWarning)
  expect(warnings).toEqual([])
})

test('what is no tunnel message closes it, and so does the end of the instance', async () => {
  await listen(5004, 'nc -ll -p 5004 -e cat')
  using wrong = await tunnel(5004)
  wrong.ws.send('{"type":"start"}')
  expect(await wrong.closed).toMatchObject({ code: 4400 })
  const { id } = await node.start({})
  using server = await connectObserving(node, id)
  server.send({ type: 'exec', command: 'nc -ll -p 80 -e cat' })
  await server.event('port_event')
  using client = await connectLive(node, `/api/v1/instances/${id}/tunnel/80`)
  await node.fetch(`/api/v1/instances/${id}`, { method: 'DELETE' })
  expect((await client.closed).code).toBeGreaterThan(1000)
})

test('only so many at once, and each that ends makes room', async () => {
  await listen(5005, 'nc -ll -p 5005 -e cat')
  const clients = await Promise.all(Array.from({ length: MAX_TUNNELS }, () => tunnel(5005)))
  await expect(tunnel(5005)).rejects.toMatchObject({ status: 429, problem: { code: 'quota_exceeded' } })
  const [first, ...rest] = clients
  first?.ws.send('{"type":"end"}')
  await first?.closed
  using again = await tunnel(5005)
  again.ws.send(Buffer.from('room'))
  await again.until(() => bytesOf(again).includes('room') || undefined)
  for (const client of rest) client[Symbol.dispose]()
})
