import { once } from 'node:events'
import { newId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { problem, sampleResult } from '../test/samples.ts'
import { answer, events, json, type Script, SSE_HEAD, scriptedServer } from '../test/scripted-server.ts'
import { Bramble, BrambleError, CommandFailedError, outputBytes } from './index.ts'

const QUICK = { firstBackoffMs: 1, maxBackoffMs: 2 }

const clientOf = (url: string, retries = 3) => new Bramble({ url, apiKey: 'k', retries, backoff: QUICK })

const codeOf = async (promise: Promise<unknown>): Promise<string> => {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof BrambleError)) throw new Error(`not a BrambleError: ${String(error)}`)
  return error.code
}

const id = newId('execution')
const reset: Script = (socket) => socket.resetAndDestroy()
const hang: Script = () => undefined

test('run sends the spec with the key and resolves with the result, whatever its exit code', async () => {
  await using server = await scriptedServer(json({ ...sampleResult({ status: 'failed', exitCode: 3 }), future: 1 }))
  const result = await clientOf(server.url).run(['false'], { image: 'python', cpus: 2, resources: { pids: 9 } })
  expect(result).toMatchObject({ exitCode: 3, future: 1 })
  const [request] = server.requests
  expect(request).toMatchObject({ method: 'POST', path: '/api/v1/execute' })
  expect(request?.headers).toMatchObject({ authorization: 'Bearer k', 'content-type': 'application/json' })
  expect(JSON.parse(request?.body ?? '')).toEqual({
    image: 'python',
    command: ['false'],
    resources: { pids: 9, cpus: 2 },
  })
})

test('the builder is immutable and writes the spec', async () => {
  await using server = await scriptedServer(json(sampleResult()))
  const base = clientOf(server.url).execute('cat').image('debian').env('A', '1')
  const { spec } = base
    .env({ B: '2' })
    .stdin(new Uint8Array([0, 255]))
    .file('/a', 'text', { mode: 0o755 })
    .files({ '/b': new Uint8Array([1]) })
    .memoryMb(64)
    .timeoutMs(500)
    .label('x')
    .output('/out')
    .output('/more')
    .network({ allow: ['example.org'] })
    .user('1:1')
    .workdir('/w')
    .mode('cached')
  expect(base.spec).toEqual({ command: 'cat', image: 'debian', env: { A: '1' } })
  expect(spec).toEqual({
    command: 'cat',
    image: 'debian',
    mode: 'cached',
    env: { A: '1', B: '2' },
    stdin: { base64: 'AP8=' },
    files: { '/a': { content: 'text', mode: 0o755 }, '/b': { base64: 'AQ==' } },
    resources: { memoryMb: 64, timeoutMs: 500 },
    labels: { x: '' },
    outputs: ['/out', '/more'],
    network: { allow: ['example.org'] },
    user: '1:1',
    workdir: '/w',
  })
  expect((await base.send()).status).toBe('succeeded')
})

test('check makes a command that failed an error that carries its result', async () => {
  await using server = await scriptedServer(json(sampleResult({ status: 'failed', exitCode: 2, stderr: 'no such\n' })))
  const error = await clientOf(server.url)
    .execute('x')
    .check()
    .send()
    .catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(CommandFailedError)
  expect(error).toMatchObject({ code: 'command_failed', result: { exitCode: 2 } })
  expect(String(error)).toContain('exit code 2, and stderr ends with: no such')
})

test('a problem document becomes its error, and one that is not retryable is not tried again', async () => {
  await using server = await scriptedServer(problem('image_not_found'))
  await expect(clientOf(server.url).run('x')).rejects.toMatchObject({
    code: 'image_not_found',
    requestId: 'req_1',
    detail: 'as the test says',
  })
  expect(server.requests).toHaveLength(1)
})

test('429, 503, a reset and an answer cut short are tried again, from the second try on under one key as a stream', async () => {
  const cut: Script = (socket) =>
    socket.end(`${SSE_HEAD}data: ${JSON.stringify({ type: 'started', id, runtime: 'x' })}\n\n`)
  const tries = [problem('rate_limited', { 'retry-after': '0' }), problem('queue_full'), reset, cut]
  await using server = await scriptedServer(
    ...tries,
    events({ type: 'result', result: sampleResult({ stdout: '5th' }) }),
  )
  expect((await clientOf(server.url, 4).run('x')).stdout).toBe('5th')
  expect(server.requests.map((request) => request.headers.accept)).toEqual([
    'application/json',
    ...Array(4).fill('text/event-stream'),
  ])
  const [first, ...keys] = server.requests.map((request) => request.headers['idempotency-key'])
  expect(first).toBeUndefined()
  expect(keys).toHaveLength(4)
  expect(new Set(keys).size).toBe(1)
  expect(keys[0]).toMatch(/^req_/)
})

test('what may have reached a network is not run again, unless the node says that it never began', async () => {
  await using lost = await scriptedServer(reset)
  expect(await codeOf(clientOf(lost.url).run('x', { network: 'egress' }))).toBe('connection_failed')
  expect(lost.requests).toHaveLength(1)
  await using full = await scriptedServer(
    problem('queue_full', { 'retry-after': '0' }),
    events({ type: 'result', result: sampleResult() }),
  )
  expect((await clientOf(full.url).run('x', { network: 'egress' })).status).toBe('succeeded')
})

test('an idempotency key of the caller is sent from the first try, and makes every try safe', async () => {
  await using server = await scriptedServer(reset, events({ type: 'result', result: sampleResult() }))
  await clientOf(server.url).execute({ command: 'x', network: 'egress' }, { idempotencyKey: 'mine' })
  expect(server.requests.map((request) => request.headers['idempotency-key'])).toEqual(['mine', 'mine'])
})

test('an abort cancels an execution that would outlive its connection, also before its id is known', async () => {
  const controller = new AbortController()
  const sent = Promise.withResolvers<void>()
  const rejected = Promise.withResolvers<void>()
  const told = Promise.withResolvers<string>()
  await using server = await scriptedServer(
    async (socket) => {
      sent.resolve()
      await rejected.promise
      socket.write(`${SSE_HEAD}data: ${JSON.stringify({ type: 'queued', id })}\n\n`)
    },
    (_socket, request) => told.resolve(`${request.method} ${request.path}`),
  )
  const run = clientOf(server.url).run('sleep', { timeoutMs: 3_600_000, signal: controller.signal })
  const code = codeOf(run)
  await sent.promise
  controller.abort()
  expect(await code).toBe('cancelled')
  rejected.resolve()
  expect(await told.promise).toBe(`DELETE /api/v1/executions/${id}`)
})

test('retries end: after the last the error is given', async () => {
  await using server = await scriptedServer(answer(503, { 'content-type': 'text/html' }, '<h1>busy</h1>'))
  expect(await codeOf(clientOf(server.url, 2).run('x'))).toBe('connection_failed')
  expect(server.requests).toHaveLength(3)
})

test('a Retry-After that is longer than the client waits is given to the caller', async () => {
  await using server = await scriptedServer(problem('rate_limited', { 'retry-after': '3600' }))
  await expect(clientOf(server.url).run('x')).rejects.toMatchObject({ code: 'rate_limited', retryAfterMs: 3_600_000 })
  expect(server.requests).toHaveLength(1)
})

test('a retry that could not be in time is not waited for', async () => {
  await using server = await scriptedServer(problem('rate_limited', { 'retry-after': '30' }))
  const client = clientOf(server.url)
  expect(await codeOf(client.run('x', { requestTimeoutMs: 5_000 }))).toBe('rate_limited')
})

/** Where nothing listens: a port that was free a moment ago. */
const nowhere = async (): Promise<string> => {
  await using server = await scriptedServer(hang)
  return server.url
}

test('no server at all is connection_failed, says where and why, and is tried again', async () => {
  const url = await nowhere()
  let tries = 0
  const counting: typeof fetch = (input, init) => {
    tries++
    return fetch(input, init)
  }
  const error = await new Bramble({ url, retries: 2, backoff: QUICK, fetch: counting })
    .run('x', { network: 'egress' })
    .catch((thrown: unknown) => thrown)
  expect(error).toMatchObject({ code: 'connection_failed' })
  expect(String(error)).toContain(`${url}/api/v1/execute: connect ECONNREFUSED`)
  expect(tries).toBe(3)
})

test.each([
  ['HTML', answer(200, { 'content-type': 'text/html' }, '<p>hello</p>')],
  ['JSON of another shape', json({ hello: 1 })],
  ['broken JSON', answer(200, { 'content-type': 'application/json' }, '{"id":')],
  ['a null', json(null)],
])('an answer that is %s is bad_response, once', async (_name, script) => {
  await using server = await scriptedServer(script)
  expect(await codeOf(clientOf(server.url).run('x'))).toBe('bad_response')
  expect(server.requests).toHaveLength(1)
})

test('a redirect is not followed: it would send the command elsewhere', async () => {
  await using other = await scriptedServer(json(sampleResult()))
  await using server = await scriptedServer(answer(307, { location: `${other.url}/api/v1/execute` }, ''))
  expect(await codeOf(clientOf(server.url, 0).run('x'))).toBe('connection_failed')
  expect(other.requests).toHaveLength(0)
})

test('requestTimeoutMs ends a request that gets no answer', async () => {
  await using server = await scriptedServer(hang)
  expect(await codeOf(clientOf(server.url).run('x', { requestTimeoutMs: 50 }))).toBe('request_timeout')
  expect(server.requests).toHaveLength(1)
})

test('an abort ends the request at once, is never tried again, and keeps its reason', async () => {
  const controller = new AbortController()
  await using server = await scriptedServer(() => controller.abort('enough'))
  await expect(clientOf(server.url).run('x', { signal: controller.signal })).rejects.toMatchObject({
    code: 'cancelled',
    cause: 'enough',
  })
  expect(server.requests).toHaveLength(1)
  expect(await codeOf(clientOf(server.url).run('x', { signal: controller.signal }))).toBe('cancelled')
})

test('a stream yields its events in order, knows its id, and ends with the result', async () => {
  const result = sampleResult({ id })
  await using server = await scriptedServer(
    events(
      { type: 'queued', id },
      { type: 'started', id, runtime: 'fake' },
      { type: 'stdout', data: 'héllo' },
      { type: 'a kind of a later version', what: 1 },
      { type: 'stderr', data: 'AP8=', encoding: 'base64' },
      { type: 'exit', code: 0 },
      { type: 'result', result },
    ),
  )
  const stream = clientOf(server.url).execute('x').stream()
  const seen = []
  for await (const event of stream) seen.push(event)
  expect(seen.map((event) => event.type)).toEqual(['queued', 'started', 'stdout', 'stderr', 'exit', 'result'])
  expect(stream.id).toBe(id)
  expect((await stream.result).id).toBe(id)
  const stderr = seen[3]
  expect(stderr?.type === 'stderr' && [...outputBytes(stderr.data, stderr.encoding)]).toEqual([0, 255])
  expect(server.requests[0]?.headers.accept).toBe('text/event-stream')
})

test('awaiting the result of a stream needs no iteration', async () => {
  await using server = await scriptedServer(events({ type: 'result', result: sampleResult({ exitCode: 0 }) }))
  expect((await clientOf(server.url).stream('x').result).exitCode).toBe(0)
})

test('an error event rejects the iteration and the result alike', async () => {
  const error = new BrambleError('sandbox_died', { detail: 'it did' }).toProblem()
  await using server = await scriptedServer(events({ type: 'queued', id }, { type: 'error', error }))
  const stream = clientOf(server.url).stream('x')
  expect(await codeOf(Array.fromAsync(stream))).toBe('sandbox_died')
  expect(await codeOf(stream.result)).toBe('sandbox_died')
})

test.each([
  ['is reset', (socket: Parameters<Script>[0]) => socket.resetAndDestroy(), 'connection_failed'],
  ['ends without a result', (socket: Parameters<Script>[0]) => socket.end(), 'connection_failed'],
  ['is garbage', (socket: Parameters<Script>[0]) => socket.end('data: {{{\n\n'), 'bad_response'],
  ['is null', (socket: Parameters<Script>[0]) => socket.end('data: null\n\n'), 'bad_response'],
  [
    'has output without data',
    (socket: Parameters<Script>[0]) => socket.end('data: {"type":"stdout"}\n\n'),
    'bad_response',
  ],
  ['has a wrong result', (socket: Parameters<Script>[0]) => socket.end('data: {"type":"result"}\n\n'), 'bad_response'],
])('a stream that %s is an error, and is not run again', async (_name, end, code) => {
  await using server = await scriptedServer((socket) => {
    const first = `data: ${JSON.stringify({ type: 'stdout', data: 'begin' })}\n\n`
    socket.write(SSE_HEAD + first, () => end(socket))
  })
  const stream = clientOf(server.url).stream('x')
  const failure = codeOf(stream.result)
  expect(await failure).toBe(code)
  expect(server.requests).toHaveLength(1)
})

test('a stream answered with JSON instead is bad_response', async () => {
  await using server = await scriptedServer(json(sampleResult()))
  expect(await codeOf(clientOf(server.url).stream('x').result)).toBe('bad_response')
})

test('a stream is opened again while it has no head', async () => {
  await using server = await scriptedServer(
    problem('queue_full', { 'retry-after': '0' }),
    reset,
    events({ type: 'result', result: sampleResult() }),
  )
  expect((await clientOf(server.url).stream('x').result).status).toBe('succeeded')
})

test('leaving a stream early closes its connection', async () => {
  const closed = Promise.withResolvers<void>()
  await using server = await scriptedServer(async (socket) => {
    socket.write(`${SSE_HEAD}data: ${JSON.stringify({ type: 'stdout', data: 'x' })}\n\n`)
    await once(socket, 'close')
    closed.resolve()
  })
  const stream = clientOf(server.url).stream('yes')
  for await (const event of stream) {
    expect(event.type).toBe('stdout')
    break
  }
  await closed.promise
  expect(await codeOf(stream.result)).toBe('cancelled')
})

test('a signal cancels a stream in the middle', async () => {
  const controller = new AbortController()
  await using server = await scriptedServer((socket) => {
    socket.write(`${SSE_HEAD}data: ${JSON.stringify({ type: 'stdout', data: 'x' })}\n\n`)
  })
  const stream = clientOf(server.url).stream('yes', { signal: controller.signal })
  const reading = (async () => {
    for await (const _event of stream) controller.abort()
  })()
  expect(await codeOf(reading)).toBe('cancelled')
  expect(await codeOf(stream.result)).toBe('cancelled')
})

test('a command that may run long is sent as a stream, whose head does not wait for its end', async () => {
  await using server = await scriptedServer(events({ type: 'queued', id }, { type: 'result', result: sampleResult() }))
  expect((await clientOf(server.url).run('sleep', { timeoutMs: 3_600_000 })).status).toBe('succeeded')
  expect(server.requests[0]?.headers.accept).toBe('text/event-stream')
})

test('requestTimeoutMs holds for a long command too', async () => {
  await using server = await scriptedServer((socket) => socket.write(`${SSE_HEAD}: heartbeat\n\n`))
  const run = clientOf(server.url).run('sleep', { timeoutMs: 3_600_000, requestTimeoutMs: 50 })
  expect(await codeOf(run)).toBe('request_timeout')
})

test('map keeps the order, respects its concurrency, and takes any iterable', async () => {
  let open = 0
  let most = 0
  const fetch: typeof globalThis.fetch = async (_input, init) => {
    most = Math.max(most, ++open)
    const { command } = JSON.parse(String(init?.body)) as { command: string }
    await new Promise(setImmediate)
    open--
    return Response.json(sampleResult({ stdout: command }))
  }
  const client = new Bramble({ url: 'http://node', fetch })
  async function* inputs() {
    for (let i = 0; i < 20; i++) yield i
  }
  const results = await client.map(inputs(), (x) => `score ${x}`, { maxConcurrency: 3 })
  expect(results.map((result) => result.stdout)).toEqual(Array.from({ length: 20 }, (_, i) => `score ${i}`))
  expect(most).toBe(3)
})

test('the first error of a map ends the rest', async () => {
  await using server = await scriptedServer(problem('image_not_found'), hang)
  const client = clientOf(server.url)
  expect(await codeOf(client.map([1, 2, 3, 4, 5, 6], (x) => `x ${x}`, { maxConcurrency: 2 }))).toBe('image_not_found')
  expect(server.requests.length).toBeLessThanOrEqual(3)
})

test('a race gives the first that succeeds and leaves the others', async () => {
  const script: Script = (socket, request) => {
    const { command } = JSON.parse(request.body) as { command: string }
    if (command === 'slow') return
    return json(sampleResult(command === 'fails' ? { status: 'failed', exitCode: 1 } : {}))(socket, request)
  }
  await using server = await scriptedServer(script)
  const client = clientOf(server.url)
  expect(await client.race(['fails', 'slow', 'good'])).toMatchObject({ index: 2, status: 'succeeded' })
  expect(await client.race(['fails', 'fails'])).toMatchObject({ index: 0, status: 'failed' })
  expect(await codeOf(client.race([]))).toBe('invalid_request')
})

test('an import reports its progress and ends with the image', async () => {
  const image = {
    digest: `sha256:${'a'.repeat(64)}`,
    names: ['x:latest'],
    source: 'x',
    sizeBytes: 1,
    createdAt: '2026-01-01T00:00:00Z',
    config: { env: {}, workdir: '/', user: '0' },
  }
  const progress = { type: 'progress', phase: 'copy', message: 'layer 1' }
  const error = new BrambleError('image_invalid', { detail: 'no' }).toProblem()
  await using server = await scriptedServer(
    events(progress, progress, { type: 'image', image }),
    events(progress, { type: 'error', error }),
    json({ items: [image], nextCursor: null }),
    answer(204, {}, ''),
    events({ type: 'image', image }),
  )
  const client = clientOf(server.url)
  const seen: string[] = []
  const onProgress = (step: { message: string }) => seen.push(step.message)
  expect(await client.images.import({ reference: 'x' }, { onProgress })).toEqual(image)
  expect(seen).toEqual(['layer 1', 'layer 1'])
  expect(await codeOf(client.images.import({ reference: 'x' }))).toBe('image_invalid')
  await client.images.remove('x')
  expect(server.requests.at(-1)).toMatchObject({ method: 'DELETE', path: `/api/v1/images/sha256%3A${'a'.repeat(64)}` })
  await client.images.upload(new Uint8Array([1, 2, 3]), { name: 'x' })
  expect(server.requests.at(-1)).toMatchObject({ path: '/api/v1/images?name=x', body: '\x01\x02\x03' })
  expect(server.requests.at(-1)?.headers['content-type']).toBe('application/x-tar')
})

test('lists follow their cursor, and stop at one that does not move', async () => {
  const record = { id, status: 'running', command: 'x', image: 'base', mode: 'ephemeral', labels: {}, exitCode: null }
  const item = { ...record, createdAt: '2026-01-01T00:00:00Z' }
  await using server = await scriptedServer(
    json({ items: [item, item], nextCursor: 'c1' }),
    json({ items: [item], nextCursor: null }),
    json({ items: [], nextCursor: 'same' }),
  )
  const client = clientOf(server.url)
  expect(await client.executions.list({ status: 'running', limit: 2 }).all()).toHaveLength(3)
  expect(server.requests.map((request) => request.path)).toEqual([
    '/api/v1/executions?status=running&limit=2',
    '/api/v1/executions?status=running&limit=2&cursor=c1',
  ])
  expect(await codeOf(client.executions.list().all())).toBe('bad_response')
})

test('ids are written into paths as data', async () => {
  await using server = await scriptedServer(problem('not_found'))
  expect(await codeOf(clientOf(server.url).executions.get('../keys?x=/'))).toBe('not_found')
  expect(server.requests[0]?.path).toBe('/api/v1/executions/..%2Fkeys%3Fx%3D%2F')
})

test('a URL or a key that cannot be one is refused when the client is made', () => {
  expect(() => new Bramble({ url: 'ftp://x' })).toThrow(expect.objectContaining({ code: 'invalid_request' }))
  expect(() => new Bramble({ url: 'http://x', apiKey: 'a\nb' })).toThrow(
    expect.objectContaining({ code: 'unauthorized' }),
  )
  expect(new Bramble({ url: 'https://host/node/1//' }).url).toBe('https://host/node/1')
})

test('the URL and the key come from the environment by default', async () => {
  await using server = await scriptedServer(json({ items: [] }))
  const before = { url: process.env.BRAMBLE_URL, key: process.env.BRAMBLE_API_KEY }
  try {
    process.env.BRAMBLE_URL = server.url
    process.env.BRAMBLE_API_KEY = 'from-env'
    expect(await new Bramble().pools()).toEqual([])
    expect(server.requests[0]?.headers.authorization).toBe('Bearer from-env')
  } finally {
    for (const [name, value] of [
      ['BRAMBLE_URL', before.url],
      ['BRAMBLE_API_KEY', before.key],
    ] as const) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
})
