import { readFile } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestNode, type TestNode } from '../test/test-node.ts'
import { Bramble, CommandFailedError, outputBytes } from './index.ts'

let node: TestNode
let bramble: Bramble

beforeAll(async () => {
  node = await openTestNode()
  bramble = new Bramble({ url: node.url, apiKey: node.key })
})
afterAll(() => node[Symbol.asyncDispose]())

const text = (data: string, encoding: 'utf8' | 'base64' | undefined) =>
  Buffer.from(outputBytes(data, encoding)).toString()

test('runs a command, with input, files and environment', async () => {
  const result = await bramble
    .execute('cat; cat /tmp/a; echo "$NAME" >&2; exit 3')
    .stdin('from stdin\n')
    .file('/tmp/a', 'from a file\n')
    .env('NAME', 'value')
    .label('suite', 'sdk')
    .send()
  expect(result).toMatchObject({
    status: 'failed',
    exitCode: 3,
    stdout: 'from stdin\nfrom a file\n',
    stderr: 'value\n',
  })
})

test('run with check throws for a command that fails', async () => {
  await expect(bramble.run('exit 4', { check: true })).rejects.toBeInstanceOf(CommandFailedError)
  expect((await bramble.run(['echo', 'hello world'], { check: true })).stdout).toBe('hello world\n')
})

test('streams the events of a command, and its output is whole', async () => {
  const stream = bramble.execute('echo one; echo two >&2; printf "\\377"').stream()
  const types = new Set<string>()
  let stderr = ''
  let last = new Uint8Array()
  for await (const event of stream) {
    types.add(event.type)
    if (event.type === 'stderr') stderr += text(event.data, event.encoding)
    if (event.type === 'stdout') last = outputBytes(event.data, event.encoding)
  }
  expect([...types].filter((type) => type !== 'queued')).toEqual(
    expect.arrayContaining(['started', 'stdout', 'stderr', 'exit', 'result']),
  )
  expect(stderr).toBe('two\n')
  expect(last.at(-1)).toBe(255)
  expect((await stream.result).exitCode).toBe(0)
})

test('a large output arrives whole, also to a reader that stalls', async () => {
  let bytes = 0
  let count = 0
  const stream = bramble.execute('head -c 20000000 /dev/zero').stream()
  for await (const event of stream) {
    if (event.type !== 'stdout') continue
    bytes += outputBytes(event.data, event.encoding).length
    if (count++ % 50 === 0) await new Promise(setImmediate)
  }
  expect(bytes).toBe(20_000_000)
  expect((await stream.result).truncated).toBe(true)
})

/** The record once it has ended; a cancelled one ends a moment after its connection. */
const ended = async (id: string) => {
  for await (const _event of bramble.executions.logs(id));
  return bramble.executions.get(id)
}

test('leaving a stream cancels its command', async () => {
  const stream = bramble.execute('echo ready; sleep 1000').stream()
  for await (const event of stream) if (event.type === 'stdout') break
  expect((await ended(stream.id ?? '')).status).toBe('cancelled')
})

test.each([
  ['short', 60_000],
  ['long', 3_600_000],
])('aborting a %s command cancels it on the node', async (name, timeoutMs) => {
  const controller = new AbortController()
  const run = bramble.run('sleep 1000', { timeoutMs, labels: { abort: name }, signal: controller.signal })
  const outcome = expect(run).rejects.toMatchObject({ code: 'cancelled' })
  let over = false
  run
    .catch(() => undefined)
    .finally(() => {
      over = true
    })
  let id: string | undefined
  while (id === undefined && !over)
    for await (const record of bramble.executions.list({ label: `abort=${name}`, status: 'running' })) id = record.id
  if (id === undefined) throw new Error(`it ended by itself: ${await run}`)
  controller.abort()
  await outcome
  expect((await ended(id)).status).toBe('cancelled')
})

test('a command that runs too long has status timeout', async () => {
  expect((await bramble.run('sleep 1000', { timeoutMs: 20 })).status).toBe('timeout')
})

test('a command that may run long gives the same result as any other', async () => {
  const result = await bramble.run('echo long; exit 5', { timeoutMs: 3_600_000 })
  expect(result).toMatchObject({ exitCode: 5, stdout: 'long\n' })
})

test('an idempotency key runs a command once', async () => {
  const spec = { command: 'echo once', labels: { once: 'yes' } }
  const first = await bramble.execute(spec, { idempotencyKey: 'once-1' })
  const second = await bramble.execute(spec, { idempotencyKey: 'once-1' })
  expect(second.id).toBe(first.id)
  expect(await bramble.executions.list({ label: 'once=yes' }).all()).toHaveLength(1)
})

test('map, race and batch run many', async () => {
  const results = await bramble.map([1, 2, 3, 4, 5], (x) => `echo ${x}`, { maxConcurrency: 2 })
  expect(results.map((result) => result.stdout)).toEqual(['1\n', '2\n', '3\n', '4\n', '5\n'])
  expect(await bramble.race(['exit 1', 'sleep 1000', 'echo won'])).toMatchObject({ index: 2, stdout: 'won\n' })
  const { items } = await bramble.batch(['echo a', ['echo', 'b']])
  expect(items).toMatchObject([{ result: { stdout: 'a\n' } }, { result: { stdout: 'b\n' } }])
  const long = await bramble.batch([{ command: 'echo c', resources: { timeoutMs: 3_600_000 } }], { strategy: 'map' })
  expect(long).toMatchObject({ strategy: 'map', items: [{ index: 0, result: { stdout: 'c\n' } }] })
})

test('the history can be listed page by page, read, and its output told again', async () => {
  for (let i = 0; i < 5; i++) await bramble.run(`echo ${i}`, { labels: { list: 'yes' } })
  const pages = await Array.fromAsync(bramble.executions.list({ label: 'list=yes', limit: 2 }).pages())
  expect(pages.map((page) => page.items.length)).toEqual([2, 2, 1])
  const newest = pages[0]?.items[0]
  if (newest === undefined) throw new Error('no record')
  expect((await bramble.executions.get(newest.id)).result?.stdout).toBe('4\n')
  let output = ''
  for await (const event of bramble.executions.logs(newest.id))
    if (event.type === 'stdout') output += text(event.data, event.encoding)
  expect(output).toBe('4\n')
  expect((await bramble.executions.cancel(newest.id)).status).toBe('succeeded')
})

test('images are listed, imported by path, uploaded, and removed by name', async () => {
  const phases: string[] = []
  const onProgress = ({ phase }: { phase: string }) => phases.push(phase)
  const imported = await bramble.images.import({ rootfsTar: node.rootfsTar, name: 'again' }, { onProgress })
  expect(imported.names).toEqual(expect.arrayContaining(['again']))
  const archive = new Uint8Array(await readFile(node.rootfsTar))
  const uploaded = await bramble.images.upload(archive, { name: 'sent' }, { onProgress })
  expect(uploaded.digest).toBe(imported.digest)
  expect(phases).toContain('upload')
  const stream = new Blob([archive]).stream()
  expect((await bramble.images.upload(stream, { name: 'streamed' })).digest).toBe(imported.digest)
  expect((await bramble.images.list().all()).map((image) => image.digest)).toContain(imported.digest)
  await expect(bramble.images.remove('nothing')).rejects.toMatchObject({ code: 'image_not_found' })
  await expect(bramble.images.upload(new Uint8Array(3), { name: 'bad' })).rejects.toMatchObject({
    code: 'image_invalid',
  })
})

test('keys are made, used, refused without a scope, and removed', async () => {
  const made = await bramble.keys.add({ name: 'reader', scopes: ['read'], tenant: 'other' })
  const reader = new Bramble({ url: node.url, apiKey: made.key, retries: 0 })
  expect(await reader.executions.list().all()).toEqual([])
  await expect(reader.run('true')).rejects.toMatchObject({ code: 'forbidden' })
  expect((await bramble.keys.list().all()).map((key) => key.id)).toContain(made.id)
  await bramble.keys.remove(made.id)
  await expect(reader.executions.list().all()).rejects.toMatchObject({ code: 'unauthorized' })
})

test('prewarm, pools, usage and health', async () => {
  expect(await bramble.prewarm({ image: 'base', count: 2 })).toMatchObject({ floor: 2 })
  expect((await bramble.pools())[0]).toMatchObject({ floor: 2 })
  await bramble.prewarm({ image: 'base', count: 0 })
  expect(await bramble.health()).toMatchObject({ status: 'ok', version: '0.0.0' })
  const usage = await bramble.usage({ since: new Date(0) })
  expect(Date.parse(usage.since)).toBe(0)
})

test('a mistake is named by its field, and the client goes on', async () => {
  await expect(bramble.run([])).rejects.toMatchObject({
    code: 'invalid_request',
    issues: [expect.objectContaining({ path: 'command' })],
  })
  await expect(bramble.run('true', { image: 'nowhere' })).rejects.toMatchObject({ code: 'image_not_found' })
  await expect(bramble.stream({ command: 'true', image: 'nowhere' }).result).rejects.toMatchObject({
    code: 'image_not_found',
  })
  expect((await bramble.run('true')).exitCode).toBe(0)
})

test('a full node is waited for', async () => {
  await using small = await openTestNode({ maxRunning: 1, maxQueued: 4 })
  const client = new Bramble({ url: small.url, apiKey: small.key, retries: 20, backoff: { firstBackoffMs: 5 } })
  const results = await client.map(Array.from({ length: 16 }), (_, i) => `echo ${i}`, { maxConcurrency: 16 })
  expect(results.map((result) => result.stdout)).toEqual(Array.from({ length: 16 }, (_, i) => `${i}\n`))
})
