import { once } from 'node:events'
import { readFile, stat } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import type { ApiKey, ExecutionResult, UsageRow } from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestNode, problemOf, type TestNode } from '../test/test-node.ts'
import { openGateway } from './index.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode()
})
afterAll(() => node[Symbol.asyncDispose]())

const code = async (response: Response) => (response.ok ? 'ok' : (await problemOf(response)).code)
const run = (key: string) => node.fetch('/api/v1/execute', { json: { command: 'true' }, key })

test('the first start makes an admin key, in a file that only its owner reads', async () => {
  const path = join(node.directory, 'admin.key')
  expect((await readFile(path, 'utf8')).trim()).toBe(node.key)
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  expect((await stat(join(node.directory, 'gateway.db'))).mode & 0o777).toBe(0o600)
  const again = await node.reopen()
  try {
    expect(again.adminKey).toBeUndefined()
    const response = await fetch(`${again.url}/api/v1/keys`, { headers: { authorization: `Bearer ${node.key}` } })
    expect(response.status).toBe(200)
  } finally {
    await again.close({ graceMs: 0 })
  }
})

test('the key itself is nowhere on disk but in the admin file', async () => {
  const { key } = await node.newKey()
  for (const name of ['gateway.db', 'gateway.db-wal'])
    expect((await readFile(join(node.directory, name))).includes(key)).toBe(false)
})

test('no key, a wrong key and a wrong scheme are refused before the body is looked at', async () => {
  const refused: Record<string, string>[] = [
    {},
    { authorization: 'Bearer nonsense' },
    { authorization: 'Basic YTpi' },
    { authorization: '' },
  ]
  for (const headers of refused) {
    const response = await fetch(`${node.url}/api/v1/execute`, { method: 'POST', body: '{', headers })
    expect(response.status).toBe(401)
    expect(response.headers.get('www-authenticate')).toBe('Bearer')
    expect(await problemOf(response)).toMatchObject({ code: 'unauthorized' })
  }
})

test('a GET may carry its key as a token, a POST may not', async () => {
  expect((await fetch(`${node.url}/api/v1/executions?limit=1&token=${node.key}`)).status).toBe(200)
  const post = await fetch(`${node.url}/api/v1/execute?token=${node.key}`, { method: 'POST', body: '{}' })
  expect(await code(post)).toBe('unauthorized')
})

test('scopes open what they name, and admin opens all', async () => {
  const keys = {
    execute: (await node.newKey({ scopes: ['execute'] })).key,
    read: (await node.newKey({ scopes: ['read'] })).key,
    admin: (await node.newKey({ scopes: ['admin'] })).key,
  }
  const codes = async (ask: (key: string) => Promise<Response>) => ({
    execute: await code(await ask(keys.execute)),
    read: await code(await ask(keys.read)),
    admin: await code(await ask(keys.admin)),
  })
  expect(await codes(run)).toEqual({ execute: 'ok', read: 'forbidden', admin: 'ok' })
  for (const path of ['/api/v1/executions', '/api/v1/images', '/api/v1/usage'])
    expect(await codes((key) => node.fetch(path, { key }))).toEqual({ execute: 'forbidden', read: 'ok', admin: 'ok' })
  const prewarm = (key: string) => node.fetch('/api/v1/prewarm', { json: { count: 0 }, key })
  const ofAdmin = ['/api/v1/keys', '/api/v1/pools'].map((path) => (key: string) => node.fetch(path, { key }))
  for (const ask of [prewarm, ...ofAdmin])
    expect(await codes(ask)).toEqual({ execute: 'forbidden', read: 'forbidden', admin: 'ok' })
})

test('a deleted key is refused at once, and after a restart', async () => {
  const { id, key } = await node.newKey()
  expect(await code(await run(key))).toBe('ok')
  expect((await node.fetch(`/api/v1/keys/${id}`, { method: 'DELETE' })).status).toBe(204)
  expect(await code(await run(key))).toBe('unauthorized')
  expect(await code(await node.fetch(`/api/v1/keys/${id}`, { method: 'DELETE' }))).toBe('not_found')
  const again = await node.reopen()
  try {
    const response = await fetch(`${again.url}/api/v1/executions`, { headers: { authorization: `Bearer ${key}` } })
    expect(response.status).toBe(401)
  } finally {
    await again.close({ graceMs: 0 })
  }
})

test('keys are listed in pages, without the keys, with their last use', async () => {
  const made = await node.newKey({ name: 'listed' })
  await run(made.key)
  const items: ApiKey[] = []
  for (let cursor: string | null = ''; cursor !== null; ) {
    const query: string = cursor === '' ? '' : `&cursor=${cursor}`
    const page = (await (await node.fetch(`/api/v1/keys?limit=2${query}`)).json()) as {
      items: ApiKey[]
      nextCursor: string | null
    }
    items.push(...page.items)
    cursor = page.nextCursor
  }
  const listed = items.find(({ id }) => id === made.id)
  expect(listed).toMatchObject({ name: 'listed', lastUsedAt: expect.stringContaining('T') })
  expect(JSON.stringify(items)).not.toContain(made.key)
  expect(new Set(items.map(({ id }) => id)).size).toBe(items.length)
})

test('the last admin key stays', async () => {
  await using other = await openTestNode()
  const { items } = (await (await other.fetch('/api/v1/keys')).json()) as { items: ApiKey[] }
  const path = `/api/v1/keys/${items[0]?.id}`
  expect(await code(await other.fetch(path, { method: 'DELETE' }))).toBe('conflict')
  await other.newKey({ scopes: ['admin'] })
  expect((await other.fetch(path, { method: 'DELETE' })).status).toBe(204)
  expect(await code(await other.fetch('/api/v1/keys'))).toBe('unauthorized')
})

test('making a key twice under one idempotency key gives the same key', async () => {
  const make = () => node.fetch('/api/v1/keys', { json: { name: 'twice' }, headers: { 'idempotency-key': 'make-key' } })
  const [first, second] = await Promise.all([make(), make()])
  expect(await first.json()).toEqual(await second.json())
})

test('requests past the rate of a key wait for Retry-After, and others are not touched', async () => {
  const { key } = await node.newKey({ quota: { requestsPerSecond: 0.01 } })
  const first = await node.fetch('/api/v1/executions', { key })
  expect(first.status).toBe(200)
  expect(first.headers.get('ratelimit-limit')).toBe('1')
  expect(first.headers.get('ratelimit-remaining')).toBe('0')
  const second = await node.fetch('/api/v1/executions', { key })
  expect(second.status).toBe(429)
  expect(Number(second.headers.get('retry-after'))).toBeGreaterThan(90)
  expect(await problemOf(second)).toMatchObject({ code: 'rate_limited', retryable: true })
  expect((await node.fetch('/api/v1/executions')).status).toBe(200)
})

test('usage is by tenant; only an admin sees others', async () => {
  const mine = await node.newKey({ tenant: 'mine' })
  const theirs = await node.newKey({ tenant: 'theirs' })
  expect(await code(await run(mine.key))).toBe('ok')
  expect(await code(await run(theirs.key))).toBe('ok')
  const tenants = async (query: string, key?: string) => {
    const response = await node.fetch(`/api/v1/usage${query}`, key === undefined ? {} : { key })
    const { items } = (await response.json()) as { items: UsageRow[] }
    return items.map(({ tenant, keyId }) => `${tenant} ${keyId}`)
  }
  expect(await tenants('', mine.key)).toEqual([`mine ${mine.id}`])
  expect(await tenants('')).toEqual(expect.arrayContaining([`mine ${mine.id}`, `theirs ${theirs.id}`]))
  expect(await tenants('?tenant=theirs')).toEqual([`theirs ${theirs.id}`])
  expect(await code(await node.fetch('/api/v1/usage?tenant=theirs', { key: mine.key }))).toBe('forbidden')
  const backwards = '?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z'
  expect(await code(await node.fetch(`/api/v1/usage${backwards}`))).toBe('invalid_request')
})

test('without keys only a loopback address is bound, and only loopback names are served', async () => {
  const { engine } = node
  const options = { engine, dataDirectory: join(node.directory, 'open'), port: 0, version: '1.2.3', auth: false }
  await expect(openGateway({ ...options, host: '0.0.0.0' })).rejects.toMatchObject({ code: 'invalid_request' })
  await using open = await openGateway(options)
  expect(open.adminKey).toBeUndefined()
  const response = await fetch(`${open.url}/api/v1/execute`, {
    method: 'POST',
    body: '{"command":"echo open"}',
    headers: { 'content-type': 'application/json' },
  })
  expect(((await response.json()) as ExecutionResult).stdout).toBe('open\n')
  // What a browser sends for any page without asking first: forms, requests without a body, WebSockets.
  const formOf = (origin: string) =>
    fetch(`${open.url}/api/v1/instances/box/upload?path=/`, {
      method: 'POST',
      body: new FormData(),
      headers: { origin },
    })
  expect(await (await formOf('https://evil.example')).json()).toMatchObject({ code: 'forbidden' })
  expect(await (await formOf(open.url)).json()).toMatchObject({ code: 'not_found' })
  const socketOf = async (origin: string): Promise<unknown> => {
    const path = '/api/v1/instances/box/stream'
    const headers = { connection: 'upgrade', upgrade: 'websocket', origin }
    const request = httpRequest({ port: open.port, path, headers }).end()
    return json((await once(request, 'response'))[0])
  }
  expect(await socketOf('https://evil.example')).toMatchObject({ code: 'forbidden' })
  expect(await socketOf(`http://127.0.0.1:${open.port}`)).toMatchObject({ code: 'forbidden' })
  expect(await socketOf(`http://localhost:${open.port}`)).toMatchObject({ code: 'not_found' })
  const rebound = httpRequest({ port: open.port, path: '/api/v1/pools', headers: { host: 'evil.example' } }).end()
  const { promise, resolve } = Promise.withResolvers<unknown>()
  rebound.on('response', (answer) => resolve(json(answer)))
  expect(await promise).toMatchObject({ code: 'forbidden' })
})
