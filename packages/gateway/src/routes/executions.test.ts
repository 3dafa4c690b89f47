import type { ExecutionRecord, ExecutionResult } from '@bramble/protocol'
import { executionEventSchema, executionResultSchema } from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { allEvents, openTestNode, outputOf, problemOf, readEvents, type TestNode } from '../../test/test-node.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode()
})
afterAll(() => node[Symbol.asyncDispose]())

const EVENTS = { accept: 'text/event-stream' }
const run = (command: string | string[], rest: object = {}) =>
  node.fetch('/api/v1/execute', { json: { command, ...rest } })
const stream = (command: string, init: RequestInit = {}) =>
  node.fetch('/api/v1/execute', { ...init, json: { command }, headers: { ...EVENTS, ...init.headers } })
const record = async (id: string): Promise<ExecutionRecord> =>
  (await (await node.fetch(`/api/v1/executions/${id}`)).json()) as ExecutionRecord

test('answers with the result, whatever the exit code', async () => {
  const response = await run('echo out; echo err >&2; exit 3')
  expect(response.status).toBe(200)
  expect(response.headers.get('content-type')).toContain('application/json')
  const result = executionResultSchema.parse(await response.json())
  expect(result).toMatchObject({ status: 'failed', exitCode: 3, stdout: 'out\n', stderr: 'err\n' })
})

test('streams the events in order, with ids that count, and ends with the same result', async () => {
  const response = await stream('echo one; echo two >&2')
  expect(response.headers.get('content-type')).toContain('text/event-stream')
  expect(response.headers.get('x-accel-buffering')).toBe('no')
  const messages = await allEvents(response)
  expect(messages.map(({ id }) => Number(id))).toEqual(messages.map((_, index) => index + 1))
  for (const { event, data } of messages) expect(executionEventSchema.parse(data).type).toBe(event)
  const types = messages.map(({ event }) => event)
  expect(types.slice(0, 2)).toEqual(['queued', 'started'])
  expect(types.slice(-2)).toEqual(['exit', 'result'])
  expect(outputOf(messages, 'stdout').toString()).toBe('one\n')
  expect(outputOf(messages, 'stderr').toString()).toBe('two\n')
})

test('streams bytes that are not text, and text in several scripts, without loss', async () => {
  const bytes = await allEvents(await stream("printf '\\377\\000\\376ok'"))
  expect(outputOf(bytes, 'stdout')).toEqual(Buffer.from([0xff, 0, 0xfe, 0x6f, 0x6b]))
  const text = await allEvents(await stream('printf \'é漢🎉 "quoted" \\\\ \\t\''))
  expect(outputOf(text, 'stdout').toString()).toBe('é漢🎉 "quoted" \\ \t')
})

test('streams more than anything in between holds', async () => {
  const messages = await allEvents(await stream('head -c 8M /dev/zero'))
  expect(outputOf(messages, 'stdout').length).toBe(8 * 1024 * 1024)
  expect(messages.at(-1)).toMatchObject({ event: 'result', data: { result: { truncated: true } } })
})

test('a client that goes away cancels its command, in JSON and in the middle of a stream', async () => {
  const abort = new AbortController()
  const waiting = node.fetch('/api/v1/execute', {
    json: { command: 'sleep 60', labels: { test: 'gone-json' } },
    signal: abort.signal,
  })
  const running = async (): Promise<ExecutionRecord> => {
    for (;;) {
      const page = (await (await node.fetch('/api/v1/executions?label=test=gone-json')).json()) as {
        items: ExecutionRecord[]
      }
      const [item] = page.items
      if (item) return item
    }
  }
  const { id } = await running()
  abort.abort()
  await expect(waiting).rejects.toThrow()
  const ended = await allEvents(await node.fetch(`/api/v1/executions/${id}/logs`))
  expect(ended.at(-1)).toMatchObject({ event: 'result', data: { result: { status: 'cancelled' } } })

  let streamed = ''
  for await (const { event, data } of readEvents(await stream('yes'))) {
    if (event === 'started') streamed = (data as { id: string }).id
    if (event === 'stdout') break
  }
  const after = await allEvents(await node.fetch(`/api/v1/executions/${streamed}/logs`))
  expect(after.at(-1)).toMatchObject({ event: 'result', data: { result: { status: 'cancelled' } } })
})

test('lists, shows and pages what ran, and filters by status and label', async () => {
  const { id } = (await (await run('exit 7', { labels: { test: 'list' } })).json()) as ExecutionResult
  const other = (await (await run('true', { labels: { test: 'list' } })).json()) as ExecutionResult
  const page = async (query: string) =>
    (await (await node.fetch(`/api/v1/executions?label=test=list&${query}`)).json()) as {
      items: ExecutionRecord[]
      nextCursor: string | null
    }
  expect((await page('status=failed')).items.map((item) => item.id)).toEqual([id])
  const first = await page('limit=1')
  expect(first.items.map((item) => item.id)).toEqual([other.id])
  const second = await page(`limit=1&cursor=${encodeURIComponent(first.nextCursor ?? '')}`)
  expect(second.items.map((item) => item.id)).toEqual([id])
  expect((await record(id)).result).toMatchObject({ exitCode: 7 })
})

test('cancels by id, and leaves alone what has ended', async () => {
  const messages = readEvents(await stream('sleep 60'))
  let id = ''
  for await (const { event, data } of messages) {
    if (event === 'started') {
      id = (data as { id: string }).id
      const cancelled = await node.fetch(`/api/v1/executions/${id}`, { method: 'DELETE' })
      expect(await cancelled.json()).toMatchObject({ id, status: 'cancelled' })
    }
    if (event === 'result') expect(data).toMatchObject({ result: { status: 'cancelled' } })
  }
  const { id: done } = (await (await run('true')).json()) as ExecutionResult
  const again = await node.fetch(`/api/v1/executions/${done}`, { method: 'DELETE' })
  expect(await again.json()).toMatchObject({ status: 'succeeded' })
})

test('logs give the past, then what comes, to anyone of the tenant', async () => {
  const messages = readEvents(await stream('echo early; sleep 0.05; echo late'))
  for await (const { event, data } of messages)
    if (event === 'started') {
      const logs = await node.fetch(`/api/v1/executions/${(data as { id: string }).id}/logs`)
      expect(outputOf(await allEvents(logs), 'stdout').toString()).toBe('early\nlate\n')
    }
  const { id } = (await (await run('echo past')).json()) as ExecutionResult
  for (const query of ['', '?follow=false', '?follow=true']) {
    const past = await allEvents(await node.fetch(`/api/v1/executions/${id}/logs${query}`))
    expect(past.at(-1)).toMatchObject({ event: 'result' })
  }
  const bad = await node.fetch(`/api/v1/executions/${id}/logs?follow=maybe`)
  expect(await problemOf(bad)).toMatchObject({ code: 'invalid_request', issues: [{ path: 'follow' }] })
  const past = await allEvents(await node.fetch(`/api/v1/executions/${id}/logs`))
  expect(outputOf(past, 'stdout').toString()).toBe('past\n')
  const missing = await node.fetch(`/api/v1/executions/${id.slice(0, -4)}zzzz/logs`)
  expect(await problemOf(missing)).toMatchObject({ code: 'not_found', status: 404 })
})

test('logs that do not follow end with what is kept, half a character too, while the command runs', async () => {
  const messages = readEvents(await stream("printf 'early\\303'; sleep 60"))
  let id = ''
  for await (const { event, data } of messages) {
    if (event === 'started') id = (data as { id: string }).id
    if (event !== 'stdout') continue
    const path = `/api/v1/executions/${id}/logs?follow=false`
    const told = await allEvents(await node.fetch(path))
    expect(told.map((message) => message.event)).toEqual(['queued', 'started', 'stdout', 'stdout'])
    expect(outputOf(told, 'stdout')).toEqual(Buffer.from('early\xc3', 'latin1'))
    break
  }
  const cancelled = await node.fetch(`/api/v1/executions/${id}`, { method: 'DELETE' })
  expect(await cancelled.json()).toMatchObject({ status: 'cancelled' })
})

test('a tenant sees nothing of another', async () => {
  const { id } = (await (await run('true')).json()) as ExecutionResult
  const { key } = await node.newKey({ tenant: 'other' })
  for (const path of [`/api/v1/executions/${id}`, `/api/v1/executions/${id}/logs`])
    expect(await problemOf(await node.fetch(path, { key }))).toMatchObject({ code: 'not_found' })
  const cancelled = await node.fetch(`/api/v1/executions/${id}`, { method: 'DELETE', key })
  expect(await problemOf(cancelled)).toMatchObject({ code: 'not_found' })
  expect(await (await node.fetch('/api/v1/executions', { key })).json()).toEqual({ items: [], nextCursor: null })
})

test('under an idempotency key, the same request runs once, and goes on without its client', async () => {
  const headers = { 'idempotency-key': 'once' }
  const abort = new AbortController()
  const init = { json: { command: 'sleep 0.05; echo ran' }, headers: { ...headers, ...EVENTS } }
  for await (const { event } of readEvents(await node.fetch('/api/v1/execute', { ...init, signal: abort.signal })))
    if (event === 'started') break
  abort.abort()
  const joined = await node.fetch('/api/v1/execute', init)
  expect(joined.headers.get('idempotent-replayed')).toBe('true')
  const messages = await allEvents(joined)
  expect(messages.at(-1)).toMatchObject({ event: 'result', data: { result: { status: 'succeeded', stdout: 'ran\n' } } })
  const end = messages.at(-1)
  const plain = await node.fetch('/api/v1/execute', { ...init, headers })
  expect(end?.data).toMatchObject({ result: { id: ((await plain.json()) as ExecutionResult).id } })
  const other = await node.fetch('/api/v1/execute', { json: { command: 'echo other' }, headers })
  expect(await problemOf(other)).toMatchObject({ code: 'idempotency_mismatch', status: 409 })
})
