import type { Instance } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectLive, connectStream } from './live-socket.ts'

const MIB = 1024 * 1024

let node: LiveNode
let skip: string | undefined
let box: Instance
let other: Instance
beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  box = await node.start({})
  other = await node.start({})
})
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach(({ skip: skipTest }) => {
  if (skip !== undefined) skipTest(skip)
})

/** Numbers from a seed (xorshift32), so that what fails can be repeated. */
const randoms = (seed: number): ((below: number) => number) => {
  let state = seed
  return (below) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}
const SEED = 20_261
const TYPES = [
  'exec',
  'stdin',
  'close_stdin',
  'signal',
  'resize',
  'watch',
  'unwatch',
  'get_state',
  'checkpoint',
  'none',
]
const FIELDS = [
  'id',
  'command',
  'env',
  'workdir',
  'user',
  'stdin',
  'pty',
  'data',
  'encoding',
  'signal',
  'cols',
  'path',
  'name',
  '__proto__',
  'constructor',
]
const VALUES: readonly unknown[] = [
  ...[null, true, 0, -1, 1e308, '', 'x', 'a\0b', 'é🎉', '../..', '/', [], {}, [[]], ['true'], { a: 'b' }],
  ...['x'.repeat(100_000), Array.from({ length: 5000 }, () => 'x'), JSON.parse('{"__proto__":{"polluted":true}}')],
]

test('a thousand messages made at random: each is answered or does what it says, and the node lives', async () => {
  const random = randoms(SEED)
  const pick = <T>(list: readonly T[]): T => list[random(list.length)] as T
  using stream = await connectStream(node, box.id)
  await stream.event('state')
  for (let sent = 0; sent < 1000; sent++) {
    const message: Record<string, unknown> = { type: random(20) === 0 ? pick(VALUES) : pick(TYPES) }
    for (let fields = random(4); fields > 0; fields--) message[pick(FIELDS)] = pick(VALUES)
    const text = JSON.stringify(message)
    const kind = random(20)
    if (kind === 0) stream.send(text.slice(0, random(text.length)))
    else if (kind === 1) stream.send(Buffer.from(text))
    else stream.send(text)
  }
  stream.send({ type: 'exec', id: 'last', command: 'echo last' })
  await stream.event('exit', ({ id }) => id === 'last')
  expect(stream.output('last')).toBe('last\n')
  const known = [
    'invalid_request',
    'invalid_json',
    'not_found',
    'unsupported',
    'conflict',
    'file_not_found',
    'file_refused',
    'quota_exceeded',
  ]
  const codes = new Set(stream.messages.filter(({ type }) => type === 'error').map(({ code }) => code))
  expect([...codes].filter((code) => !known.includes(String(code)))).toEqual([])
  expect(codes.size).toBeGreaterThan(3)
  expect(await node.sh(box.id, 'echo sound')).toBe('sound\n')
})

test('a flood of messages whose answers nobody reads holds up nobody else, and grows nothing', async () => {
  const before = node.process.rssBytes()
  using flooder = await connectStream(node, box.id)
  await flooder.event('state')
  flooder.ws.pause()
  const large = JSON.stringify({ type: 'watch', path: 'x'.repeat(MIB - 100) })
  for (let sent = 0; sent < 100_000; sent++) flooder.send('{"type":"get_state"}')
  for (let sent = 0; sent < 100; sent++) flooder.send(large)
  for (let times = 0; times < 20; times++) {
    expect(await node.sh(other.id, `echo ${times}`)).toBe(`${times}\n`)
    expect(await node.sh(box.id, `echo ${times}`)).toBe(`${times}\n`)
    expect(node.process.rssBytes() - before).toBeLessThan(256 * MIB)
  }
  flooder.ws.terminate()
})

test('a frame past the limit ends its connection with 1009, and no other', async () => {
  using quiet = await connectStream(node, box.id)
  for (const path of ['stream', 'pty', 'tunnel/9000']) {
    if (path.startsWith('tunnel')) {
      quiet.send({ type: 'exec', id: 'server', command: 'nc -ll -p 9000 -e cat' })
      await node.ask('POST', `/api/v1/instances/${box.id}/ports`, { json: { port: 9000 } })
      while (!(await node.sh(box.id, 'netstat -ltn')).includes(':9000'));
    }
    using large = await connectLive(node, box.id, path)
    large.send(Buffer.alloc(MIB + 1))
    expect(await large.closed, path).toMatchObject({ code: 1009 })
  }
  quiet.send({ type: 'exec', id: 'still', command: 'echo here' })
  await quiet.event('exit', ({ id }) => id === 'still')
  expect(quiet.output('still')).toBe('here\n')
})
