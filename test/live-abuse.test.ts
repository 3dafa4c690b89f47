import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Instance } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest'
import { cgroupsOf, until } from './leftovers.ts'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectLive, connectStream, type LiveSocket, Refused } from './live-socket.ts'
import { openSshUser } from './live-ssh.ts'

const MIB = 1024 * 1024
/** What the node may take for the worst of it. What floods here, unread and kept, would be gigabytes. */
const MAX_GROWTH_BYTES = 512 * MIB

let node: LiveNode
let skip: string | undefined
/** The one who takes all it can, and the other. */
let a = ''
let b = ''
let box: Instance
let other: Instance
let rssBefore = 0

beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  a = (await node.newKey({ tenant: 'a', quota: { concurrentSandboxes: 4 } })).key
  b = (await node.newKey({ tenant: 'b' })).key
  box = await node.start({}, a)
  other = await node.start({}, b)
  await node.sh(other.id, 'true', b)
  rssBefore = node.process.rssBytes()
})
afterAll(async () => {
  if (skip !== undefined) return
  await node[Symbol.asyncDispose]()
})
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

/** Does one thing after the other as the other tenant for as long as `work` takes: each is to succeed. */
const whileOtherWorks = async <T>(work: () => Promise<T>): Promise<T> => {
  let over = false
  const done = work().finally(() => {
    over = true
  })
  done.catch(() => {})
  for (let times = 0; times === 0 || !over; times++) {
    expect(await node.sh(other.id, `echo ${times}`, b)).toBe(`${times}\n`)
    expect(node.process.rssBytes() - rssBefore).toBeLessThan(MAX_GROWTH_BYTES)
  }
  return await done
}
const codeOf = (connecting: Promise<LiveSocket>): Promise<string> =>
  connecting.then(
    () => 'connected',
    (error: unknown) => (error instanceof Refused ? error.code : String(error)),
  )
const tally = (codes: readonly string[]): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const code of codes) counts[code] = (counts[code] ?? 0) + 1
  return counts
}
/** Commands in the instance of the one who takes all, beside the one that asks. */
const processes = async (): Promise<number> => Number(await node.sh(box.id, 'ls -d /proc/[0-9]* | wc -l', a)) - 4

test('as many streams as there may be, and a thousand commands at once', async () => {
  const quiet = await processes()
  const streams = await Promise.all(Array.from({ length: 64 }, () => connectStream(node, box.id, { key: a })))
  onTestFinished(() => {
    for (const stream of streams) stream[Symbol.dispose]()
  })
  expect(await codeOf(connectStream(node, box.id, { key: a }))).toBe('quota_exceeded')
  const exec = async (index: number): Promise<string> => {
    const json = { command: ['echo', String(index)], timeoutMs: 60_000 }
    const answer = await node.ask('POST', `/api/v1/instances/${box.id}/exec`, { key: a, json })
    if (answer.status !== 200) return answer.code
    const { status, stdout } = answer.json<{ status: string; stdout: string }>()
    return stdout === `${index}\n` ? 'right' : status
  }
  const codes = await whileOtherWorks(() => Promise.all(Array.from({ length: 1000 }, (_, index) => exec(index))))
  // What the limit of processes keeps from starting is told as such.
  const { right = 0, failed = 0, ...rest } = tally(codes)
  expect([right > 100, right + failed, rest]).toEqual([true, 1000, {}])
  for (const stream of streams) stream.ws.close()
  await Promise.all(streams.map(({ closed }) => closed))
  await until('a stream may be opened again', async () => {
    const again = await connectStream(node, box.id, { key: a }).catch(() => undefined)
    again?.[Symbol.dispose]()
    return again !== undefined
  })
  await until('its commands ended', async () => (await processes()) <= quiet)
})

test('instances without end: as many as the quota, and the other still gets its own', async () => {
  const make = async (): Promise<string> => {
    const answer = await node.ask('POST', '/api/v1/instances', { key: a, json: { resources: { memoryMb: 64 } } })
    return answer.status === 201 ? answer.json<Instance>().id : answer.code
  }
  const before = cgroupsOf(node.dataDirectory).length
  const asked = whileOtherWorks(() => Promise.all(Array.from({ length: 600 }, make)))
  const own = await node.start({}, b)
  expect(await node.sh(own.id, 'echo own', b)).toBe('own\n')
  const made = await asked
  const ids = made.filter((each) => each.startsWith('ins_'))
  expect(ids).toHaveLength(3)
  expect(Object.keys(tally(made.filter((each) => !each.startsWith('ins_')))).sort()).toEqual(
    expect.toSatisfy((codes: string[]) => codes.every((code) => ['queue_full', 'quota_exceeded'].includes(code))),
  )
  expect(cgroupsOf(node.dataDirectory)).toHaveLength(before + 4)
  for (const id of ids) expect((await node.ask('DELETE', `/api/v1/instances/${id}`, { key: a })).status).toBe(204)
  expect((await node.ask('DELETE', `/api/v1/instances/${own.id}`, { key: b })).status).toBe(204)
})

test('floods of terminals, output and events', async () => {
  const flood = `pty?cmd=${encodeURIComponent('exec yes flood')}`
  const clients = await Promise.all([
    ...Array.from({ length: 8 }, () => connectLive(node, box.id, flood, { key: a })),
    ...Array.from({ length: 4 }, () => connectStream(node, box.id, { key: a, query: 'processes=true' })),
  ])
  onTestFinished(() => {
    for (const client of clients) client[Symbol.dispose]()
  })
  const emit = 'i=0; while [ $i -lt 200 ]; do i=$((i+1)); /.bramble/bramble-emit flood $i; done'
  clients.at(-1)?.send({ type: 'exec', id: 'emit', command: `${emit} & ${emit} & ${emit} & wait` })
  await whileOtherWorks(async () => {
    for (const client of clients.slice(0, 8)) await client.until(() => client.bytes().length > MIB)
    for (const client of clients.slice(8)) await client.event('exit', ({ id }) => id === 'emit')
  })
  for (const { ws } of clients.slice(0, 8)) ws.close(1000)
  await until('the terminals were hung up', async () => !(await node.sh(box.id, 'ps -o args', a)).includes('yes flood'))
})

test('a watcher that never reads slows what floods it, is cut off, and grows nothing', async () => {
  using reader = await connectStream(node, box.id, { key: a })
  using still = await connectStream(node, box.id, { key: a })
  await still.event('state')
  still.ws.pause()
  await whileOtherWorks(async () => {
    reader.send({ type: 'exec', id: 'flood', command: ['head', '-c', '30000000', '/dev/zero'] })
    await reader.event('exit', ({ id }) => id === 'flood')
  })
  expect(reader.output('flood').length).toBe(30_000_000)
  still.ws.resume()
  expect(await still.closed).toMatchObject({ code: 4408, reason: 'slow_consumer' })
})

test('a scan of ports through tunnels and by requests', async () => {
  const ports = Array.from({ length: 500 }, (_, index) => index + 1)
  const codes = await whileOtherWorks(() =>
    Promise.all(ports.map((port) => codeOf(connectLive(node, box.id, `tunnel/${port}`, { key: a })))),
  )
  const { port_closed: closed = 0, quota_exceeded: refused = 0, ...rest } = tally(codes)
  expect([closed > 0, closed + refused, rest]).toEqual([true, 500, {}])
  // All places were given back.
  expect(await codeOf(connectLive(node, box.id, 'tunnel/9', { key: a }))).toBe('port_closed')
})

test('connections of SSH that never log in: somebody else still does', async () => {
  const user = await openSshUser(node.sshPort)
  await node.ask('POST', '/api/v1/ssh-keys', { key: b, json: { name: 'b', publicKey: user.publicKey } })
  const sockets: Socket[] = []
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
  })
  const open = async (): Promise<void> => {
    const socket = connect(node.sshPort, '127.0.0.1')
    sockets.push(socket)
    socket.on('error', () => {})
    await Promise.race([once(socket, 'data'), once(socket, 'close')]).catch(() => {})
  }
  await whileOtherWorks(() => Promise.all(Array.from({ length: 300 }, open)))
  // From another address of this machine: what one address does is not held against another.
  expect(await user.ssh(['-b', '127.0.0.2', `${other.id}@127.0.0.1`, 'echo in'])).toMatchObject({
    code: 0,
    stdout: 'in\n',
  })
  expect(sockets.filter(({ destroyed }) => !destroyed).length).toBeLessThanOrEqual(64)
})
