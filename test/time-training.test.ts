import { openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import type { ExposedPort, Instance, Snapshot } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { connectStream } from './live-socket.ts'
import { makeProgramImage } from './time-image.ts'
import { call, importImage, killMachine, lines, untilUploaded } from './time-node.ts'

/** Programs whose state is in memory, and nowhere else, go on on another node when the machine of the first is gone. */

const TRAINING = `
import queue, random, threading, time
run = random.getrandbits(64)
batches = queue.Queue(4)
def load():
    n = 0
    while True:
        n += 1
        batches.put(n * 48271 % 2147483647)
threading.Thread(target=load, daemon=True).start()
weight = 1
for step in range(1, 100000):
    weight = (weight * 31 + batches.get()) % 1000003
    print(f'run {run} step {step} weight {weight}', flush=True)
    time.sleep(0.01)
`
/** What one run prints that never stopped; one that begins anew is another run. */
const trained = (run: string, steps: number): string[] => {
  let weight = 1
  return Array.from({ length: steps }, (_, index) => {
    weight = (weight * 31 + (((index + 1) * 48271) % 2147483647)) % 1000003
    return `${run} step ${index + 1} weight ${weight}`
  })
}

const SERVER = `
const seen = []
let ticks = 0
setInterval(() => ticks++, 10)
require('node:http').createServer((request, response) => {
  seen.push(request.url)
  response.end(JSON.stringify({ seen, ticks }))
}).listen(8000, '0.0.0.0', () => console.log('listens'))
`
const SHELL = 'n=0; all=; while read line; do n=$((n + 1)); all="$all $line"; echo "$n$all"; done'

let skip: string | undefined
let s3: S3Server
let a: LiveNode
let b: LiveNode
let python = ''
let run = ''
let reached = 0
let ticked = 0
let isGone = false
let isBack = false

const server = async (node: LiveNode, box: string, path: string): Promise<{ seen: string[]; ticks: number }> => {
  const { url } = await call<ExposedPort>(node, 'POST', `instances/${box}/ports`, { port: 8000 })
  const answer = await node.ask('GET', new URL(url).pathname + path)
  expect(answer.status, answer.text).toBe(200)
  return answer.json()
}

const begin = async (node: LiveNode, name: string, command: string | string[]) => {
  const box = await node.start({ name, image: 'programs', resources: { memoryMb: 512 } })
  const stream = await connectStream(node, box.id)
  stream.send({ type: 'exec', id: name, command, stdin: true })
  return stream
}

const open = async (): Promise<string | undefined> => {
  const server = await openS3Server()
  if ('skip' in server) return server.skip
  s3 = server
  const image = await makeProgramImage(['python', 'node'])
  if ('skip' in image) return image.skip
  python = image.python
  const env = { BRAMBLE_OBJECT_STORE_URL: s3.url(await s3.newBucket()) }
  for (const name of ['a', 'b'] as const) {
    const opened = await openLiveNode({ env, checkpoint: true })
    if ('skip' in opened) return opened.skip
    if (name === 'a') a = opened
    else b = opened
    await importImage(opened, image, 'programs')
  }
  return undefined
}

beforeAll(async () => {
  skip = await open()
  if (skip !== undefined) return
  const [training, web, shell] = await Promise.all([
    begin(a, 'training', [python, '-c', TRAINING]),
    begin(a, 'web', ['node', '-e', SERVER]),
    begin(a, 'shell', SHELL),
  ])
  shell.send({ type: 'stdin', id: 'shell', data: 'one\ntwo\n' })
  await Promise.all([lines(training, 'training', 30), lines(web, 'web', 1), lines(shell, 'shell', 2)])
  await server(a, 'web', 'first')
  ticked = (await server(a, 'web', 'second')).ticks
  for (const name of ['training', 'web', 'shell']) {
    const request = { instanceId: name, name, memory: true }
    const snapshot = await call<Snapshot>(a, 'POST', 'snapshots', request)
    expect(snapshot.memory?.processes.length).toBeGreaterThan(0)
  }
  const said = await lines(training, 'training', 1)
  reached = said.length
  run = /^run \d+/.exec(said[0] ?? '')?.[0] ?? ''
  await untilUploaded(a)
  isGone = true
  await killMachine(a)
}, 240_000)
afterAll(async () => {
  // What its machine left is cleared away by its next start.
  if (a && isGone && !isBack) await a.again()
  await a?.[Symbol.asyncDispose]()
  await b?.[Symbol.asyncDispose]()
  await s3?.close()
})
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

const restore = (name: string): Promise<Instance> => call(b, 'POST', `snapshots/${name}/restore`, { memory: true })

test('a training loop in Python goes on at the step that it had reached', async () => {
  const box = await restore('training')
  using stream = await connectStream(b, box.id, { query: 'since=0&processes=false' })
  const all = await lines(stream, 'training', reached + 50)
  expect(all).toEqual(trained(run, all.length))
})

test('a server in Node knows who asked it, listens on its port, and its timers tick', async () => {
  const box = await restore('web')
  const first = await server(b, box.id, 'third')
  expect(first.seen).toEqual(['/first', '/second', '/third'])
  expect(first.ticks).toBeGreaterThanOrEqual(ticked)
  await expect.poll(async () => (await server(b, box.id, 'again')).ticks).toBeGreaterThan(first.ticks)
})

test('a shell has its variables, and goes on reading', async () => {
  const box = await restore('shell')
  using stream = await connectStream(b, box.id, { query: 'since=0&processes=false' })
  stream.send({ type: 'stdin', id: 'shell', data: 'three\n' })
  expect(await lines(stream, 'shell', 3)).toEqual(['1 one', '2 one two', '3 one two three'])
})

test('a second restore begins where the first did; the file system is the same', async () => {
  const [one, two] = await Promise.all([restore('shell'), restore('shell')])
  for (const box of [one, two]) {
    using stream = await connectStream(b, box.id, { query: 'since=0&processes=false' })
    stream.send({ type: 'stdin', id: 'shell', data: `${box.id}\n` })
    expect((await lines(stream, 'shell', 3)).at(-1)).toBe(`3 one two ${box.id}`)
  }
  const hosts = await Promise.all([one, two].map(({ id }) => b.sh(id, 'hostname')))
  expect(new Set(hosts).size).toBe(2)
})

test('the first machine comes back: what was saved is there, and what was not has ended', async () => {
  await a.again()
  isBack = true
  const { items } = await call<{ items: Instance[] }>(a, 'GET', 'instances')
  expect(items.map(({ name, status }) => `${name} ${status}`).sort()).toEqual([
    'shell stopped',
    'training stopped',
    'web stopped',
  ])
  const box = await call<Instance>(a, 'POST', 'snapshots/training/restore', { memory: true })
  using stream = await connectStream(a, box.id, { query: 'since=0&processes=false' })
  const all = await lines(stream, 'training', reached + 20)
  expect(all).toEqual(trained(run, all.length))
})
