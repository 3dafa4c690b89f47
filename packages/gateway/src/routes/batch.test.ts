import { type BatchResponse, batchEndSchema, batchEventSchema, batchResponseSchema } from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allEvents, openTestNode, problemOf, readEvents, type TestNode } from '../../test/test-node.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode({ gateway: { limits: { maxBatchOutputBytes: 100_000 } } })
})
afterAll(() => node[Symbol.asyncDispose]())

const batch = (json: object, init: RequestInit = {}) => node.fetch('/api/v1/batch', { json, ...init })
const answer = async (response: Promise<Response>): Promise<BatchResponse> =>
  batchResponseSchema.parse(await (await response).json())
const EVENTS = { headers: { accept: 'text/event-stream' } }

test('answers with every result in order, failures and errors among them', async () => {
  const items = [{ command: 'sleep 0.02; echo a' }, { command: 'exit 4' }, { command: 'x', image: 'nowhere' }]
  const response = await answer(batch({ items }))
  expect(response).toMatchObject({
    strategy: 'all',
    items: [
      { index: 0, result: { stdout: 'a\n' } },
      { index: 1, result: { exitCode: 4 } },
      { index: 2, error: { code: 'image_not_found' } },
    ],
  })
  expect(response).not.toHaveProperty('winner')
})

test('runs no more at once than asked, in order', async () => {
  const items = Array.from({ length: 6 }, (_, index) => ({ command: `echo ${index}` }))
  const { items: results } = await answer(batch({ items, strategy: 'map', maxConcurrency: 1 }))
  const finished = results.map((item) => ('result' in item ? item.result.finishedAt : ''))
  expect(finished).toEqual([...finished].sort())
  expect(results.map((item) => 'result' in item && item.result.stdout.trim())).toEqual(['0', '1', '2', '3', '4', '5'])
})

test('a race ends with the first to succeed, and cancels the rest', async () => {
  const items = [{ command: 'sleep 60' }, { command: 'exit 1' }, { command: 'echo won' }, { command: 'sleep 60' }]
  const response = await answer(batch({ items, strategy: 'race' }))
  expect(response).toMatchObject({ winner: 2, items: [{ result: { status: 'cancelled' } }, {}, {}, {}] })
})

test('a race that nobody wins has no winner', async () => {
  const response = await answer(batch({ items: [{ command: 'exit 1' }, { command: 'exit 2' }], strategy: 'race' }))
  expect(response).not.toHaveProperty('winner')
})

test('streams the events of every item with its index, and the end', async () => {
  const items = [{ command: 'echo a' }, { command: 'x', image: 'nowhere' }, { command: 'printf "\\377"' }]
  const messages = await allEvents(await batch({ items }, EVENTS))
  const end = batchEndSchema.parse(messages.at(-1)?.data)
  expect(messages.at(-1)?.event).toBe('batch')
  expect(end).toMatchObject({ strategy: 'all', succeeded: 2, failed: 1 })
  const events = messages.slice(0, -1).map(({ event, data }) => {
    const parsed = batchEventSchema.parse(data)
    expect(parsed.event.type).toBe(event)
    return parsed
  })
  const of = (index: number) => events.filter((event) => event.index === index).map(({ event }) => event)
  expect(of(0).map(({ type }) => type)).toEqual(['queued', 'started', 'stdout', 'exit', 'result'])
  expect(of(0).at(-1)).toMatchObject({ result: { stdout: 'a\n' } })
  expect(of(1)).toMatchObject([{ type: 'error', error: { code: 'image_not_found' } }])
  expect(of(2)).toContainEqual({ type: 'stdout', data: '/w==', encoding: 'base64' })
})

test('a client that leaves the stream cancels every item', async () => {
  const items = [
    { command: 'yes', labels: { test: 'left' } },
    { command: 'sleep 60', labels: { test: 'left' } },
  ]
  for await (const { event } of readEvents(await batch({ items }, EVENTS))) if (event === 'stdout') break
  for (;;) {
    const page = await (await node.fetch('/api/v1/executions?label=test=left')).json()
    const statuses = (page as { items: { status: string }[] }).items.map(({ status }) => status)
    if (statuses.every((status) => status !== 'running' && status !== 'queued')) {
      expect(statuses).toEqual(['cancelled', 'cancelled'])
      break
    }
  }
})

test('the outputs of one answer are bounded; a stream has no such bound', async () => {
  const items = Array.from({ length: 3 }, () => ({ command: 'head -c 60000 /dev/zero' }))
  const { items: results } = await answer(batch({ items, maxConcurrency: 1 }))
  expect(results.map((item) => ('error' in item ? item.error.code : item.result.status))).toEqual([
    'succeeded',
    'body_too_large',
    'body_too_large',
  ])
  const messages = await allEvents(await batch({ items }, EVENTS))
  expect(messages.at(-1)?.data).toMatchObject({ succeeded: 3, failed: 0 })
})

test('under an idempotency key the batch runs once, as JSON and as events', async () => {
  const body = { items: [{ command: 'echo once' }] }
  const headers = { 'idempotency-key': 'batch' }
  const [first, second] = await Promise.all([answer(batch(body, { headers })), answer(batch(body, { headers }))])
  expect(second).toEqual(first)
  const messages = await allEvents(await batch(body, { headers: { ...headers, ...EVENTS.headers } }))
  expect(messages.map(({ event }) => event)).toEqual(['result', 'batch'])
  expect(messages[0]?.data).toMatchObject({ index: 0, event: { result: { stdout: 'once\n' } } })
})

test.for([
  ['no items', { items: [] }],
  ['too many items', { items: Array.from({ length: 1001 }, () => ({ command: 'true' })) }],
  ['a bad item', { items: [{ command: 'true' }, { command: [] }] }],
  ['no such strategy', { items: [{ command: 'true' }], strategy: 'best' }],
  ['no concurrency', { items: [{ command: 'true' }], maxConcurrency: 0 }],
])('refuses %s', async ([, body]) => {
  expect(await problemOf(await batch(body as object))).toMatchObject({ status: 400, code: 'invalid_request' })
})
