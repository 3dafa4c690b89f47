import { once } from 'node:events'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { LIMITS, newId, problemSchema } from '@bramble/protocol'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { openTestNode, problemOf, type TestNode } from '../test/test-node.ts'

let node: TestNode
beforeAll(async () => {
  node = await openTestNode({
    gateway: { limits: { bodyTimeoutMs: 200, headersTimeoutMs: 300, maxHeaderBytes: 8192 } },
  })
})
afterAll(() => node[Symbol.asyncDispose]())

/** Whatever came before, the next request works. */
afterEach(async () => {
  const response = await node.fetch('/api/v1/execute', { json: { command: 'echo fine' } })
  expect(await response.json()).toMatchObject({ stdout: 'fine\n' })
})

/** Sends bytes as they are and reads until the other side ends. */
const raw = async (bytes: string): Promise<{ status: number; head: string; body: unknown }> => {
  const socket = connect(node.gateway.port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    socket.write(bytes)
    const [head = '', body = ''] = (await text(socket)).split('\r\n\r\n')
    return { status: Number(head.split(' ')[1]), head, body: JSON.parse(body) }
  } finally {
    socket.destroy()
  }
}

const head = (path: string, ...lines: string[]): string =>
  [`POST ${path} HTTP/1.1`, 'host: localhost', `authorization: Bearer ${node.key}`, ...lines, '', ''].join('\r\n')

describe('a request that is refused', () => {
  test.for<[string, object, string]>([
    ['an empty argv', { command: [] }, 'command'],
    ['an empty command', { command: '  ' }, 'command'],
    ['a NUL byte in an argument', { command: ['echo', 'a\0b'] }, 'command.1'],
    ['a NUL byte in env', { command: 'true', env: { A: 'x\0' } }, 'env.A'],
    ['an env name with =', { command: 'true', env: { 'A=B': 'x' } }, 'env.A=B'],
    ['10 MB of env', { command: 'true', env: { BIG: 'x'.repeat(10_000_000) } }, 'env.BIG'],
    ['an unknown field', { command: 'true', comand: 'x' }, ''],
    ['an unknown resource', { command: 'true', resources: { memory: 1 } }, 'resources'],
    ['a number for a command', { command: 7 }, 'command'],
    ['a list', [], ''],
  ])('%s is invalid, with the field named', async ([, body, path]) => {
    const response = await node.fetch('/api/v1/execute', { json: body })
    expect(response.headers.get('content-type')).toContain('application/problem+json')
    const problem = problemSchema.parse(await response.json())
    expect(problem).toMatchObject({ status: 400, code: 'invalid_request' })
    expect(problem.issues?.map((issue) => issue.path)).toContain(path)
    expect(problem.requestId).toBe(response.headers.get('x-request-id'))
  })

  test('an unknown image', async () => {
    const response = await node.fetch('/api/v1/execute', { json: { command: 'true', image: 'nowhere' } })
    expect(await problemOf(response)).toMatchObject({ status: 404, code: 'image_not_found' })
  })

  test('an unknown image, asked for as a stream, is a plain problem', async () => {
    const response = await node.fetch('/api/v1/execute', {
      json: { command: 'true', image: 'nowhere' },
      headers: { accept: 'text/event-stream' },
    })
    expect(response.status).toBe(404)
    expect(await problemOf(response)).toMatchObject({ code: 'image_not_found' })
  })

  test.for<[string, RequestInit, object]>([
    ['malformed JSON', { body: '{"command":' }, { status: 400, code: 'invalid_json' }],
    ['JSON that is not UTF-8', { body: Buffer.from([0x22, 0xff, 0x22]) }, { status: 400, code: 'invalid_json' }],
    ['no body', {}, { status: 400, code: 'invalid_request' }],
    [
      'no command',
      { body: '{}', headers: { 'content-type': 'application/json' } },
      { status: 400, code: 'invalid_request', detail: '`command`: expected string or array' },
    ],
    [
      'an empty argv',
      { body: '{"command":[]}', headers: { 'content-type': 'application/json' } },
      { status: 400, code: 'invalid_request', issues: [{ path: 'command', message: 'is an empty argv' }] },
    ],
    [
      'a file that says too much',
      {
        body: '{"command":"true","files":{"a":{"content":"x","mod":1}}}',
        headers: { 'content-type': 'application/json' },
      },
      { status: 400, issues: [{ path: 'files.a', message: expect.stringContaining('mod') }] },
    ],
    [
      'another content type',
      { body: '{"command":"true"}', headers: { 'content-type': 'text/plain' } },
      { status: 415, code: 'unsupported_media_type', detail: 'it is `text/plain`' },
    ],
    [
      'an archive where none belongs',
      { body: 'x', headers: { 'content-type': 'application/x-tar' } },
      { status: 415, code: 'unsupported_media_type' },
    ],
    [
      'a content coding',
      { body: 'x', headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' } },
      { status: 415, code: 'unsupported_media_type' },
    ],
    [
      'a bad idempotency key',
      { body: '{"command":"true"}', headers: { 'content-type': 'application/json', 'idempotency-key': 'a b' } },
      { status: 400, code: 'invalid_request' },
    ],
  ])('%s', async ([, init, problem]) => {
    const headers = { 'content-type': 'application/json', ...(init.headers as Record<string, string>) }
    const response = await node.fetch('/api/v1/execute', { method: 'POST', ...init, headers })
    expect(await problemOf(response)).toMatchObject(problem)
  })

  test('a body past the limit is told so, however much of it was sent', async () => {
    const body = JSON.stringify({ command: 'true', stdin: 'x'.repeat(LIMITS.maxBodyBytes.value) })
    const headers = { 'content-type': 'application/json' }
    const response = await node.fetch('/api/v1/execute', { method: 'POST', body, headers })
    expect(await problemOf(response)).toMatchObject({ status: 413, code: 'body_too_large' })
  })

  test('a body that says it is enormous is not waited for', async () => {
    const { status, body } = await raw(
      head('/api/v1/execute', 'content-type: application/json', 'content-length: 99999999999'),
    )
    expect(status).toBe(413)
    expect(body).toMatchObject({ code: 'body_too_large' })
  })

  test.for([
    ['GET', '/api/v1/nothing', { status: 404, code: 'not_found' }, null],
    ['GET', '/api/v1/execute', { status: 405, code: 'method_not_allowed' }, 'POST'],
    ['PUT', '/api/v1/executions', { status: 405, code: 'method_not_allowed' }, 'GET'],
    ['POST', `/api/v1/executions/${newId('execution')}`, { status: 405, code: 'method_not_allowed' }, 'GET, DELETE'],
    ['GET', '/api/v1/executions/nonsense', { status: 400, code: 'invalid_request' }, null],
    ['GET', '/api/v1/executions/%zz', { status: 400, code: 'invalid_request' }, null],
    ['GET', '/api/v1/executions?limit=x', { status: 400, code: 'invalid_request' }, null],
    ['GET', '/api/v1/executions?limit=1&limit=2', { status: 400, code: 'invalid_request' }, null],
    ['GET', '/api/v1/executions?size=1', { status: 400, code: 'invalid_request' }, null],
    ['POST', '/api/v1/execute?wait=1', { status: 400, code: 'invalid_request' }, null],
  ] as const)('%s %s', async ([method, path, problem, allow]) => {
    const init = method === 'POST' ? { json: { command: 'true' } } : { method }
    const response = await node.fetch(path, init)
    expect(await problemOf(response)).toMatchObject(problem)
    expect(response.headers.get('allow')).toBe(allow)
  })

  test('a parameter past its limit', async () => {
    const response = await node.fetch(`/api/v1/executions/${'x'.repeat(500)}`)
    expect(await problemOf(response)).toMatchObject({ status: 400, code: 'invalid_request' })
  })

  test('a body where none belongs', async () => {
    const response = await node.fetch(`/api/v1/executions/${newId('execution')}`, { method: 'DELETE', json: { a: 1 } })
    expect(await problemOf(response)).toMatchObject({ code: 'invalid_request', detail: 'this request has no body' })
  })
})

describe('a connection that is refused', () => {
  test('bytes that are not HTTP', async () => {
    const { status, body } = await raw('\x16\x03\x01 hello\r\n\r\n')
    expect(status).toBe(400)
    expect(body).toMatchObject({ code: 'invalid_request', requestId: expect.stringMatching(/^req_/) })
  })

  test('headers past the limit', async () => {
    const { status, body } = await raw(head('/api/v1/execute', `x-big: ${'x'.repeat(9000)}`))
    expect(status).toBe(400)
    expect(body).toMatchObject({ detail: 'the request line and headers are larger than the limit' })
  })

  test('headers that never end', async () => {
    const { status, body } = await raw('GET /health HTTP/1.1\r\nhost: localhost\r\n')
    expect(status).toBe(504)
    expect(body).toMatchObject({ code: 'request_timeout' })
  })

  test('a body that never ends', async () => {
    const {
      status,
      head: answer,
      body,
    } = await raw(`${head('/api/v1/execute', 'content-type: application/json', 'content-length: 100')}{"comm`)
    expect(status).toBe(504)
    expect(answer.toLowerCase()).toContain('connection: close')
    expect(body).toMatchObject({ code: 'request_timeout' })
  })
})

test('a sane request id is kept and another one replaced', async () => {
  const kept = await node.fetch('/health', { headers: { 'x-request-id': 'trace-1.2:3' } })
  expect(kept.headers.get('x-request-id')).toBe('trace-1.2:3')
  const replaced = await node.fetch('/health', { headers: { 'x-request-id': 'not sane <>' } })
  expect(replaced.headers.get('x-request-id')).toMatch(/^req_/)
})

test('a name that reaches for the prototype changes nothing', async () => {
  const body = '{"command":"true","__proto__":{"image":"nowhere"},"env":{"__proto__":"x"}}'
  const response = await node.fetch('/api/v1/execute', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/json' },
  })
  expect(response.status).toBe(400)
  expect(({} as { image?: string }).image).toBeUndefined()
})
