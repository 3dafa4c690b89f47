import type { Instance } from '@bramble/protocol'
import { execEventSchema, instanceSchema, instanceStatsSchema } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, expect, type TestContext, test } from 'vitest'
import { openRealNode, type RealNode } from '../../test/real-node.ts'
import { allEvents, problemOf, readEvents } from '../../test/test-node.ts'

let opened: RealNode | { skip: string }
let node: RealNode
beforeAll(async () => {
  opened = await openRealNode()
  if (!('skip' in opened)) node = opened
})
afterAll(async () => {
  if (!('skip' in opened)) await opened[Symbol.asyncDispose]()
})
beforeEach((context: TestContext) => {
  if ('skip' in opened) context.skip(opened.skip)
})

const path = '/api/v1/instances'
const post = (ref: string, what: string, json: unknown = undefined) =>
  node.fetch(`${path}/${ref}/${what}`, json === undefined ? { method: 'POST' } : { json })
const shown = async (response: Response): Promise<Instance> => {
  expect(response.status).toBeLessThan(300)
  return instanceSchema.parse(await response.json())
}

test('lives: start, stop, start again with its files, pause, resume, extend, delete', async () => {
  const response = await node.fetch(path, { json: { name: 'life', labels: { a: 'b' }, ttlMs: 600_000 } })
  expect(response.status).toBe(201)
  const made = await shown(response)
  expect(made).toMatchObject({ name: 'life', status: 'running', labels: { a: 'b' }, runtime: 'oci' })
  await node.sh('life', 'echo kept > /root/file')
  expect(await shown(await node.fetch(`${path}/life`))).toEqual(await shown(await node.fetch(`${path}/${made.id}`)))

  expect(await shown(await post('life', 'stop'))).toMatchObject({ status: 'stopped' })
  expect(await problemOf(await post('life', 'exec', { command: 'true' }))).toMatchObject({ code: 'instance_stopped' })
  expect(await problemOf(await post('life', 'pause'))).toMatchObject({ status: 409 })
  expect(await shown(await post('life', 'start'))).toMatchObject({ status: 'running' })
  expect(await node.sh('life', 'cat /root/file')).toBe('kept\n')

  expect(await shown(await post('life', 'pause'))).toMatchObject({ status: 'paused' })
  expect(await shown(await post('life', 'resume'))).toMatchObject({ status: 'running' })
  await post('life', 'pause')
  expect(await node.sh('life', 'echo resumed')).toBe('resumed\n')

  const later = await shown(await post('life', 'extend', { ttlMs: 1_200_000 }))
  expect(Date.parse(later.expiresAt ?? '')).toBeGreaterThan(Date.parse(made.expiresAt ?? ''))
  expect(await shown(await post('life', 'extend', { ttlMs: null }))).toMatchObject({ expiresAt: null })
  const stats = instanceStatsSchema.parse(await (await node.fetch(`${path}/life/stats`)).json())
  expect(stats).toMatchObject({ id: made.id, processes: expect.any(Number) })
  expect(stats.memoryBytes).toBeGreaterThan(0)

  expect((await node.fetch(`${path}/life`, { method: 'DELETE' })).status).toBe(204)
  expect(await problemOf(await node.fetch(`${path}/life`, { method: 'DELETE' }))).toMatchObject({ code: 'not_found' })
})

test('lists what is the tenant’s, by page, status and label', async () => {
  const one = await node.start({ labels: { list: 'x' } })
  const two = await node.start({ labels: { list: 'x' } })
  await post(two.id, 'stop')
  const page = async (query: string) =>
    (await (await node.fetch(`${path}?label=list=x&${query}`)).json()) as {
      items: Instance[]
      nextCursor: string | null
    }
  expect((await page('')).items.map(({ id }) => id)).toEqual([two.id, one.id])
  expect((await page('status=stopped')).items.map(({ id }) => id)).toEqual([two.id])
  const first = await page('limit=1')
  expect((await page(`limit=1&cursor=${first.nextCursor}`)).items.map(({ id }) => id)).toEqual([one.id])
  const { key } = await node.newKey({ tenant: 'other' })
  expect(await (await node.fetch(path, { key })).json()).toEqual({ items: [], nextCursor: null })
  for (const [method, what] of [
    ['GET', ''],
    ['DELETE', ''],
    ['POST', '/stop'],
    ['GET', '/stats'],
    ['GET', '/files?list=/'],
    ['GET', '/files/etc/passwd'],
  ] as const)
    expect(await problemOf(await node.fetch(`${path}/${one.id}${what}`, { method, key }))).toMatchObject({
      code: 'not_found',
    })
})

test('a command gives its result, or its events as they happen', async () => {
  await node.start({ name: 'exec', env: { FROM: 'instance' } })
  const answer = await post('exec', 'exec', {
    command: 'cat; echo "$FROM $MINE"; exit 4',
    stdin: 'in ',
    env: { MINE: 'own' },
  })
  expect(await answer.json()).toMatchObject({ status: 'failed', exitCode: 4, stdout: 'in instance own\n' })
  const late = await post('exec', 'exec', { command: 'sleep 60', timeoutMs: 100 })
  expect(await late.json()).toMatchObject({ status: 'timeout', exitCode: null })
  const alias = await node.fetch('/api/v1/containers/exec/exec', { json: { command: 'echo alias' } })
  expect(await alias.json()).toMatchObject({ stdout: 'alias\n' })

  const streamed = await node.fetch(`${path}/exec/exec`, {
    json: { command: 'echo out; echo err >&2; exit 5' },
    headers: { accept: 'text/event-stream' },
  })
  const events = await allEvents(streamed)
  for (const { event, data } of events) expect(execEventSchema.parse(data).type).toBe(event)
  expect(events.map(({ event }) => event).slice(-2)).toEqual(['exit', 'result'])
  expect(events).toContainEqual(expect.objectContaining({ event: 'stderr', data: { type: 'stderr', data: 'err\n' } }))
  expect(events.at(-1)).toMatchObject({ data: { result: { exitCode: 5, status: 'failed' } } })
})

test('a client that goes kills its command', async () => {
  await node.start({ name: 'gone' })
  const abort = new AbortController()
  const streamed = await node.fetch(`${path}/gone/exec`, {
    json: { command: 'echo up; exec sleep 86401' },
    headers: { accept: 'text/event-stream' },
    signal: abort.signal,
  })
  for await (const { event } of readEvents(streamed)) if (event === 'stdout') break
  abort.abort()
  while ((await node.sh('gone', 'ps')).includes('86401'));
})

test('who may only look changes nothing', async () => {
  await node.start({ name: 'look' })
  const { key } = await node.newKey({ scopes: ['read'] })
  expect((await node.fetch(`${path}/look`, { key })).status).toBe(200)
  expect((await node.fetch(`${path}/look/files?list=/`, { key })).status).toBe(200)
  for (const [method, what] of [
    ['DELETE', ''],
    ['POST', '/stop'],
    ['PUT', '/files/x'],
    ['DELETE', '/files/etc/passwd'],
    ['POST', '/files?mkdir=/x'],
    ['POST', '/upload?path=/'],
  ] as const) {
    const response = await node.fetch(`${path}/look${what}`, { method, key })
    expect(await problemOf(response), `${method} ${what}`).toMatchObject({ code: 'forbidden' })
  }
  expect(await problemOf(await node.fetch(path, { key, json: {} }))).toMatchObject({ code: 'forbidden' })
})

test.for<[string, object, string]>([
  ['a name that is none', { name: 'Bad_Name' }, 'name'],
  ['an id for a name', { name: 'ins-x' }, 'name'],
  ['an unknown field', { imgae: 'base' }, ''],
  ['a TTL of nothing', { ttlMs: 0 }, 'ttlMs'],
  ['an unknown action', { idleAction: 'explode' }, 'idleAction'],
  ['a path that is not absolute', { volumes: [{ name: 'v', path: 'here' }] }, 'volumes.0.path'],
])('%s is refused', async ([, spec, field]) => {
  const problem = await problemOf(await node.fetch(path, { json: spec }))
  expect(problem).toMatchObject({ status: 400, code: 'invalid_request' })
  expect(problem.issues?.map((issue) => issue.path)).toContain(field)
})

test('instances and connections are counted', async () => {
  const text = await (await node.fetch('/metrics')).text()
  expect(text).toMatch(/^instances\{status="running"\} [1-9]/m)
  expect(text).toMatch(/^live_connections\{kind="stream"\} 0$/m)
  expect(text).toMatch(/^live_bytes_total \d+$/m)
})
