import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import { expect, test } from 'vitest'
import { openTestNode, problemOf } from '../test/test-node.ts'

const STREAM = { accept: 'text/event-stream', 'content-type': 'application/json' }

test('a client that takes nothing of its stream is cut off, and its command ends', async () => {
  await using node = await openTestNode({ gateway: { limits: { stallTimeoutMs: 100 } } })
  const headers = { ...STREAM, authorization: `Bearer ${node.key}` }
  const request = httpRequest(`${node.url}/api/v1/execute`, { method: 'POST', headers })
  request.on('error', () => {})
  request.end(JSON.stringify({ command: 'yes', resources: { timeoutMs: 600_000 } }))
  const [response] = await once(request, 'response')
  // Nobody reads: the socket's buffers fill, and the gateway waits.
  response.on('error', () => {})
  response.pause()
  while (node.engine.status().running > 0) await node.fetch('/health')
  const { items } = await node.engine.executions.list({ tenant: 'default', limit: 1 })
  expect(items).toMatchObject([{ status: 'cancelled' }])
  request.destroy()
})

test('bodies of all requests together are bounded, and there is room again when one has ended', async () => {
  const maxHeldBodyBytes = 64 * 1024
  await using node = await openTestNode({ gateway: { limits: { maxHeldBodyBytes } } })
  const stdin = 'x'.repeat(maxHeldBodyBytes * 0.75)
  const controller = new AbortController()
  const first = node.fetch('/api/v1/execute', { json: { command: 'sleep 1000', stdin }, signal: controller.signal })
  first.catch(() => {})
  while (node.engine.status().running === 0) await node.fetch('/health')
  const refused = await node.fetch('/api/v1/execute', { json: { command: 'cat', stdin } })
  expect(refused.headers.get('retry-after')).toBe('1')
  expect(await problemOf(refused)).toMatchObject({ status: 503, code: 'queue_full', retryable: true })
  expect((await node.fetch('/api/v1/execute', { json: { command: 'true' } })).status).toBe(200)
  controller.abort()
  while (node.engine.status().running > 0) await node.fetch('/health')
  for (let i = 0; i < 4; i++)
    expect((await node.fetch('/api/v1/execute', { json: { command: 'cat', stdin } })).status).toBe(200)
  const bad = await node.fetch('/api/v1/execute', { json: { command: 'cat', stdin, unknown: 1 } })
  expect(bad.status).toBe(400)
  expect((await node.fetch('/api/v1/execute', { json: { command: 'cat', stdin } })).status).toBe(200)
})
