import { createIdentity, generateSecretKey, nobleCurve } from '@bramble/identity'
import { BrambleError, jobRequestSchema } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { agreement, contentOf, sampleJob } from '../../test/sample-job.ts'
import { problem } from '../../test/samples.ts'
import { answer, events, json, type Script, SSE_HEAD, scriptedServer } from '../../test/scripted-server.ts'
import { Bramble, sealInputs } from '../index.ts'

const clientOf = (url: string) =>
  new Bramble({ url, apiKey: 'k', retries: 1, backoff: { firstBackoffMs: 1, maxBackoffMs: 2 } })

const at = '2026-01-01T00:00:00.000Z'
const pending = sampleJob()
const done = { ...pending, status: 'completed' as const }
const state = (job: typeof pending, seq: number) => ({ type: 'job', at, seq, job })
const status = (value: string, seq: number) => ({ type: 'status', at, seq, status: value })
const hang: Script = () => undefined

test('a job is submitted once, however often it is sent', async () => {
  await using server = await scriptedServer((socket) => socket.resetAndDestroy(), json(pending, 201))
  const job = await clientOf(server.url).jobs.submit({ command: 'echo hello', redundancy: 3, consensus: 2 })
  expect(job.id).toBe(pending.id)
  const [first, second] = server.requests
  expect(second).toMatchObject({ method: 'POST', path: '/api/v1/jobs' })
  expect(JSON.parse(second?.body ?? '')).toEqual({ command: 'echo hello', redundancy: 3, consensus: 2 })
  expect(second?.headers['idempotency-key']).toMatch(/^req_/)
  expect(second?.headers['idempotency-key']).toBe(first?.headers['idempotency-key'])
})

test('events go on after a lost connection, from the last one on', async () => {
  await using server = await scriptedServer(
    events(state(pending, 1), status('running', 4)),
    events(status('verifying', 5), { type: 'of the future', at, seq: 6 }),
    (socket) => socket.resetAndDestroy(),
    events(status('completed', 7), state(done, 7)),
  )
  const seen = await Array.fromAsync(clientOf(server.url).jobs.events(pending.id))
  expect(seen.map(({ seq }) => seq)).toEqual([1, 4, 5, 7, 7])
  const path = `/api/v1/jobs/${pending.id}/events`
  expect(server.requests.map((request) => request.path)).toEqual([
    path,
    `${path}?since=4`,
    `${path}?since=5`,
    `${path}?since=5`,
  ])
})

test('wait resolves by the events, with no request beside them', async () => {
  await using server = await scriptedServer(events(state(pending, 1), status('completed', 2), state(done, 2)))
  expect(await clientOf(server.url).jobs.wait(pending.id)).toMatchObject({ status: 'completed' })
  expect(server.requests).toHaveLength(1)
})

test('wait asks for the job where its end came without it', async () => {
  await using server = await scriptedServer(events(status('failed', 2)), json({ ...pending, status: 'failed' }))
  expect(await clientOf(server.url).jobs.wait(pending.id)).toMatchObject({ status: 'failed' })
})

test.each<[string, Script]>([
  ['something in between takes no streams', answer(200, { 'content-type': 'text/html' }, '<p>')],
  ['streams are not offered', problem('unsupported')],
])('wait asks again and again where %s', async (_why, refusal) => {
  await using server = await scriptedServer(refusal, json(pending), problem('not_leader'), json(done))
  expect(await clientOf(server.url).jobs.wait(pending.id)).toMatchObject({ status: 'completed' })
  expect(server.requests[1]?.path).toBe(`/api/v1/jobs/${pending.id}`)
})

test('wait does not ask again what will not change', async () => {
  await using server = await scriptedServer(problem('not_found'))
  await expect(clientOf(server.url).jobs.wait(pending.id)).rejects.toMatchObject({ code: 'not_found' })
  expect(server.requests).toHaveLength(1)
})

test('wait ends with its time, or by its signal', async () => {
  await using server = await scriptedServer((socket) => socket.write(SSE_HEAD), hang)
  const { jobs } = clientOf(server.url)
  await expect(jobs.wait(pending.id, { timeoutMs: 20 })).rejects.toMatchObject({ code: 'request_timeout' })
  await expect(jobs.wait(pending.id, { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'cancelled' })
})

test('an error on the stream is thrown', async () => {
  const error = new BrambleError('forbidden', { detail: 'as the test says' }).toProblem()
  await using server = await scriptedServer(events(state(pending, 1), { type: 'error', error }))
  await expect(Array.fromAsync(clientOf(server.url).jobs.events(pending.id))).rejects.toMatchObject({
    code: 'forbidden',
  })
})

test('verify gets what it checks', async () => {
  const { job, evidence } = agreement()
  const byPath: Script = (socket, request) => json(request.path.endsWith('/receipts') ? evidence : job)(socket, request)
  await using server = await scriptedServer(byPath)
  expect(await clientOf(server.url).jobs.verify(job.id)).toMatchObject({ valid: true, resultChecked: true })
  expect(await clientOf(server.url).jobs.verify(job.id, { consensus: 3 })).toMatchObject({ valid: false })
})

test('outputs are read from the result, or from the network, and are what they are said to be', async () => {
  await using server = await scriptedServer(answer(200, { 'content-type': 'application/octet-stream' }, 'hello'))
  const { jobs } = clientOf(server.url)
  const text = async (content: Parameters<typeof jobs.read>[0]) => new TextDecoder().decode(await jobs.read(content))
  const inline = contentOf('hello')
  expect(await text(inline)).toBe('hello')
  const { sha256 } = inline
  expect(await text({ blob: sha256, sizeBytes: 5, sha256 })).toBe('hello')
  const other = contentOf('other').sha256
  await expect(jobs.read({ blob: other, sizeBytes: 5, sha256: other })).rejects.toMatchObject({ code: 'bad_response' })
})

test('nodes are named in paths, their states are changed by POST', async () => {
  const node = `0x${'0a'.repeat(20)}`
  await using server = await scriptedServer(problem('not_found'))
  const { network } = clientOf(server.url)
  const calls = [network.drain(node), network.suspend(node, 'why'), network.invite({ owner: 'ada' }), network.stats()]
  for (const call of await Promise.allSettled(calls)) expect(call.status).toBe('rejected')
  await expect(network.route({ user: 'a b' })).rejects.toMatchObject({ code: 'not_found' })
  expect(server.requests.map(({ method, path, body }) => `${method} ${path} ${body}`).sort()).toEqual([
    'GET /api/v1/route?user=a%20b ',
    'GET /stats ',
    'POST /api/v1/invites {"owner":"ada"}',
    `POST /api/v1/nodes/${node}/drain `,
    `POST /api/v1/nodes/${node}/suspend {"message":"why"}`,
  ])
})

test('secret inputs are for the network alone', async () => {
  const identity = createIdentity(generateSecretKey(), nobleCurve)
  const secret = { env: { TOKEN: 'x' }, files: { '/k': new Uint8Array([0, 255]), '/t': 'text' }, stdin: 'in' }
  const sealedInputs = await sealInputs(identity.publicKey, secret)
  expect(jobRequestSchema.parse({ command: 'x', sealedInputs }).sealedInputs).toEqual(sealedInputs)
  expect(JSON.parse(new TextDecoder().decode(await identity.open(sealedInputs)))).toEqual({
    env: { TOKEN: 'x' },
    files: { '/k': { base64: 'AP8=' }, '/t': 'text' },
    stdin: 'in',
  })
  const large = { stdin: 'x'.repeat(300_000) }
  await expect(sealInputs(identity.publicKey, large)).rejects.toMatchObject({ code: 'invalid_request' })
})
