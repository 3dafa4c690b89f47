import type { ExecutionResult } from '@bramble/protocol'
import type { FastifyBaseLogger } from 'fastify'
import { expect, test } from 'vitest'
import { allEvents, openTestNode, problemOf, readEvents } from '../test/test-node.ts'

const EVENTS = { accept: 'text/event-stream' }

test('closing lets what runs end, while new work is refused and readiness says so', async () => {
  await using node = await openTestNode()
  const running = readEvents(
    await node.fetch('/api/v1/execute', { json: { command: 'sleep 0.2; echo ended' }, headers: EVENTS }),
  )
  let closed: Promise<void> | undefined
  let result: ExecutionResult | undefined
  for await (const { event, data } of running) {
    if (event === 'started') {
      closed = node.gateway.close({ graceMs: 60_000 })
      expect(await problemOf(await fetch(`${node.url}/ready`))).toMatchObject({ status: 503, code: 'shutting_down' })
      const refused = await node.fetch('/api/v1/execute', { json: { command: 'true' } })
      expect(refused.headers.get('retry-after')).toBe('1')
      expect(await problemOf(refused)).toMatchObject({ code: 'shutting_down', retryable: true })
    }
    if (event === 'result') result = (data as { result: ExecutionResult }).result
  }
  expect(result).toMatchObject({ status: 'succeeded', stdout: 'ended\n' })
  await closed
  await expect(fetch(`${node.url}/health`)).rejects.toThrow()
})

test('what is not done within the grace is cancelled, and its client told', async () => {
  await using node = await openTestNode()
  const plain = node.fetch('/api/v1/execute', { json: { command: 'sleep 60' } })
  const streamed = await node.fetch('/api/v1/execute', { json: { command: 'sleep 60' }, headers: EVENTS })
  const keyed = node.fetch('/api/v1/execute', { json: { command: 'sleep 60' }, headers: { 'idempotency-key': 'k' } })
  while (node.engine.status().running < 3) await node.fetch('/api/v1/pools')
  const closed = node.gateway.close({ graceMs: 0 })
  expect(await (await plain).json()).toMatchObject({ status: 'cancelled' })
  expect(await (await keyed).json()).toMatchObject({ status: 'cancelled' })
  expect((await allEvents(streamed)).at(-1)).toMatchObject({ data: { result: { status: 'cancelled' } } })
  await closed
  await node.gateway.close()
})

test('a port in use is an error, and leaves nothing open', async () => {
  await using node = await openTestNode()
  await expect(node.reopen({ port: node.gateway.port })).rejects.toMatchObject({ code: 'EADDRINUSE' })
  expect((await node.fetch('/api/v1/keys')).status).toBe(200)
})

test('only named origins may read answers', async () => {
  await using node = await openTestNode({ gateway: { corsOrigins: ['https://app.example'] } })
  const preflight = (origin: string) =>
    fetch(`${node.url}/api/v1/execute`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST' },
    })
  const allowed = await preflight('https://app.example')
  expect(allowed.status).toBe(204)
  expect(allowed.headers.get('access-control-allow-origin')).toBe('https://app.example')
  expect(allowed.headers.get('access-control-allow-headers')).toContain('authorization')
  const refused = await preflight('https://evil.example')
  expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([405, null])
  const answer = await node.fetch('/api/v1/execute', {
    json: { command: 'echo cors' },
    headers: { origin: 'https://app.example', ...EVENTS },
  })
  expect(answer.headers.get('access-control-allow-origin')).toBe('https://app.example')
  await answer.text()
})

test('each request is one line of log, without keys, bodies or values of env', async () => {
  const lines: object[] = []
  const loggerWith = (bound: object): FastifyBaseLogger => {
    const write = (data: object | string, message?: string) => {
      lines.push({ data: typeof data === 'string' ? data : { ...bound, ...data }, message })
    }
    return {
      level: 'trace',
      fatal: write,
      error: write,
      warn: write,
      info: write,
      debug: write,
      trace: write,
      silent: () => {},
      child: (more: object) => loggerWith({ ...bound, ...more }),
    } as unknown as FastifyBaseLogger
  }
  const logger = loggerWith({})
  await using node = await openTestNode({ gateway: { logger } })
  const body = { command: 'echo secret-word', env: { TOKEN: 'secret-word' }, labels: { a: 'secret-word' } }
  await node.fetch('/api/v1/execute', { json: body, headers: { 'x-request-id': 'seen-1' } })
  await node.fetch('/api/v1/execute', { json: { ...body, unknown: 'secret-word' } })
  await fetch(`${node.url}/api/v1/executions?token=${node.key}&label=secret-word`)
  await node.gateway.close()
  const requests = lines.filter((line) => (line as { message: string }).message === 'request')
  expect(requests.map((line) => (line as { data: { route: string; status: number } }).data)).toMatchObject([
    { requestId: 'seen-1', method: 'POST', route: '/api/v1/execute', status: 200, tenant: 'default' },
    { route: '/api/v1/execute', status: 400 },
    { route: '/api/v1/executions', status: 200, keyId: expect.stringMatching(/^key_/) },
  ])
  const text = JSON.stringify(lines)
  expect(text).not.toContain('reqId')
  expect(text).not.toContain('secret-word')
  expect(text).not.toContain(node.key)
})
