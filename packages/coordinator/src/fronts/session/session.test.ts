import { once } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import { type Commit, type Hello, jobSchema, LIMITS, newId } from '@bramble/protocol'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { commitOf, ended, resultOf, testIdentity } from '../../testing/test-network.ts'
import { openTestFront, type TestFront } from '../testing/open-test-front.ts'
import { connectWorker, dial, signedHello } from '../testing/socket-worker.ts'

let front: TestFront
beforeEach(async () => {
  front = await openTestFront({ limits: { sessionFramesPerSecond: 100, maxPendingFrames: 8, helloTimeoutMs: 300 } })
})
afterEach(() => front[Symbol.asyncDispose]())

const submit = async (form: object = {}) => {
  const response = await front.fetch('/api/v1/jobs', { json: { command: 'echo hi', redundancy: 1, ...form } })
  expect(response.status).toBe(201)
  return jobSchema.parse(await response.json())
}

/** The problem that a connection ended with before its welcome. */
const byeOf = async (socket: Awaited<ReturnType<typeof dial>>['socket']) => {
  const [data] = await once(socket, 'message')
  return JSON.parse(String(data))
}

describe('a session', () => {
  test('a job reaches the worker, its result comes back, and is the job’s', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    const job = await submit()
    const { items } = await worker.next('lease')
    const [lease] = items
    if (!lease) throw new Error('no lease')
    expect(lease).toMatchObject({ job: job.id, spec: { command: 'echo hi' } })
    worker.send({ type: 'started', items: [{ execution: lease.execution, token: lease.token }] })
    worker.send({ type: 'commit', items: [commitOf(identity, lease, resultOf('hi'))] })
    const ack = await worker.next('ack')
    expect(ack.items).toEqual([{ execution: lease.execution, token: lease.token }])
    expect(await ended(front, job.id)).toMatchObject({ status: 'completed', result: { stdout: { content: 'hi' } } })
  })

  test('a receipt that another key signed is refused with why, recorded, and the rest of its frame counts', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    const jobs = [await submit(), await submit()]
    const leases = []
    while (leases.length < 2) leases.push(...(await worker.next('lease')).items)
    const [first, second] = leases
    if (!first || !second) throw new Error('no leases')
    const forged: Commit = { ...commitOf(testIdentity(), first, resultOf('hi')) }
    forged.receipt.receipt.node = identity.id
    worker.send({ type: 'commit', items: [forged, commitOf(identity, second, resultOf('hi'))] })
    const acknowledged = [...(await worker.next('ack')).items, ...(await worker.next('ack')).items]
    expect(acknowledged.find(({ execution }) => execution === first.execution)?.error?.code).toBe('signature_invalid')
    expect(acknowledged.find(({ execution }) => execution === second.execution)).not.toHaveProperty('error')
    const other = jobs.find(({ id }) => id === second.job)
    expect(await ended(front, other?.id ?? '')).toMatchObject({ status: 'completed' })
    const entries = await front.network.nodes.reputation(identity.id, { limit: 10 })
    expect(entries.map(({ kind }) => kind)).toContain('invalid')
  })

  test('a result whose blob was not put is refused; once it is there, it counts, and its tenant may read it', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    const job = await submit()
    const [lease] = (await worker.next('lease')).items
    if (!lease) throw new Error('no lease')
    const text = 'x'.repeat(100_000)
    const result = resultOf(text)
    const { sha256, sizeBytes } = result.stdout
    const large = { ...result, stdout: { blob: sha256, sizeBytes, sha256 } }
    const read = () => front.fetch(`/api/v1/blobs/${sha256}`)
    const put = await front.signed(identity, `/api/v1/worker/blobs/${sha256}`, {
      method: 'PUT',
      body: Buffer.from(text),
    })
    expect(put.status).toBe(200)
    expect((await read()).status).toBe(404)
    worker.send({ type: 'commit', items: [commitOf(identity, lease, large)] })
    expect((await worker.next('ack')).items[0]).not.toHaveProperty('error')
    await ended(front, job.id)
    // Nobody was shown the result yet, so nobody may read its blob.
    expect((await read()).status).toBe(404)
    const shown = await (await front.fetch(`/api/v1/jobs/${job.id}`)).json()
    expect(shown.result.stdout.blob).toBe(sha256)
    expect(await (await read()).text()).toBe(text)
  })

  test('a blob that is not there', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    await submit()
    const [lease] = (await worker.next('lease')).items
    if (!lease) throw new Error('no lease')
    const result = resultOf('y'.repeat(10))
    const { sha256, sizeBytes } = result.stdout
    const named = { ...result, stdout: { blob: sha256, sizeBytes, sha256 } }
    worker.send({ type: 'commit', items: [commitOf(identity, lease, named)] })
    expect((await worker.next('ack')).items[0]?.error?.code).toBe('result_refused')
  })

  test('a newer session of the node ends the older one', async () => {
    const identity = await front.join()
    await using older = await connectWorker(front.coordinator.url, identity)
    await using newer = await connectWorker(front.coordinator.url, identity)
    expect(await older.next('bye')).toMatchObject({ error: { code: 'conflict' } })
    expect(await older.closed).toBe(1000)
    newer.send({ type: 'beat', running: [] })
    await submit()
    expect((await newer.next('lease')).items).toHaveLength(1)
  })

  test('what a worker says comes in its order, however much it says at once', async () => {
    const identity = await front.join({ report: { slots: 64, cpus: 64 } })
    await using worker = await connectWorker(front.coordinator.url, identity)
    // Ten times what may wait, and more than a second brings.
    for (let at = 0; at < 150; at++) worker.send({ type: 'beat', running: [] })
    await submit()
    const [lease] = (await worker.next('lease')).items
    if (!lease) throw new Error('no lease')
    worker.send({ type: 'commit', items: [commitOf(identity, lease, resultOf('hi'))] })
    expect((await worker.next('ack')).items).toHaveLength(1)
  })

  test('when the coordinator goes away, its workers are told when to come back', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    const closing = front.coordinator.close({ graceMs: 0 })
    const bye = await worker.next('bye')
    expect(bye.error.code).toBe('shutting_down')
    expect(bye.retryAfterMs).toBeTypeOf('number')
    await closing
  })

  test('a worker of a suspended node is sent away for good', async () => {
    const identity = await front.join()
    await using worker = await connectWorker(front.coordinator.url, identity)
    const path = `/api/v1/nodes/${identity.id}/suspend`
    expect((await front.fetch(path, { json: { message: 'it lied' } })).status).toBe(200)
    const bye = await worker.next('bye')
    expect(bye).toMatchObject({ error: { code: 'node_suspended', detail: 'it lied' } })
    expect(bye).not.toHaveProperty('retryAfterMs')
  })
})

describe('a stream that is refused', () => {
  test('a hello that another key signed', async () => {
    const identity = await front.join()
    const { socket, challenge } = await dial(front.coordinator.url, identity.id)
    const { hello } = signedHello(testIdentity(), challenge, { tamper: (own) => ({ ...own, node: identity.id }) })
    socket.send(JSON.stringify(hello))
    expect(await byeOf(socket)).toMatchObject({ type: 'bye', error: { code: 'signature_invalid' } })
    await once(socket, 'close')
  })

  test.each<[string, (hello: Hello) => Hello]>([
    ['what the node has', (hello) => ({ ...hello, report: { ...hello.report, slots: 4096 } })],
    ['what it holds', (hello) => ({ ...hello, running: [{ execution: newId('execution'), token: 1 }] })],
    ['what nobody can sign', (hello) => ({ ...hello, report: { ...hello.report, platform: '\ud800' } })],
  ])('a hello in which somebody on the way changed %s', async (_what, tamper) => {
    const identity = await front.join()
    const { socket, challenge } = await dial(front.coordinator.url, identity.id)
    socket.send(JSON.stringify(signedHello(identity, challenge, { tamper }).hello))
    expect(await byeOf(socket)).toMatchObject({ error: { code: 'signature_invalid' } })
    await once(socket, 'close')
  })

  test('a hello that was said before, to another challenge', async () => {
    const identity = await front.join()
    const before = await dial(front.coordinator.url, identity.id)
    const { hello } = signedHello(identity, before.challenge)
    before.socket.terminate()
    const { socket } = await dial(front.coordinator.url, identity.id)
    socket.send(JSON.stringify(hello))
    expect(await byeOf(socket)).toMatchObject({ error: { code: 'signature_invalid' } })
    await once(socket, 'close')
  })

  test('a node that never registered', async () => {
    const identity = testIdentity()
    const { socket, challenge } = await dial(front.coordinator.url, identity.id)
    socket.send(JSON.stringify(signedHello(identity, challenge).hello))
    expect(await byeOf(socket)).toMatchObject({ error: { code: 'not_found' } })
    await once(socket, 'close')
  })

  test('no hello at all', async () => {
    const { socket } = await dial(front.coordinator.url, testIdentity().id)
    await once(socket, 'close')
  })

  test.each([
    ['not JSON', 'nonsense', 'invalid_json'],
    ['not a hello', '{"type":"hello"}', 'invalid_request'],
    ['binary', Buffer.from('{}'), 'invalid_request'],
  ])('%s', async (_what, data, code) => {
    const { socket } = await dial(front.coordinator.url, testIdentity().id)
    socket.send(data, { binary: Buffer.isBuffer(data) })
    expect(await byeOf(socket)).toMatchObject({ error: { code } })
    await once(socket, 'close')
  })

  test('a path that names no node', async () => {
    const socket = new WebSocket(`${front.coordinator.url.replace('http', 'ws')}/api/v1/nodes/nobody/session`)
    const [, response] = await once(socket, 'unexpected-response')
    expect(response.statusCode).toBe(404)
    response.destroy()
  })
})

describe('a frame that ends its session', () => {
  const open = async () => {
    const identity = await front.join()
    return connectWorker(front.coordinator.url, identity)
  }
  test('one with a wrong code', async () => {
    await using worker = await open()
    worker.socket.send(`${'A'.repeat(22)}{"type":"beat","running":[]}`)
    expect((await worker.next('bye')).error.code).toBe('signature_invalid')
    await worker.closed
  })

  test('one that is sent again', async () => {
    await using worker = await open()
    const data = worker.codec.seal('{"type":"beat","running":[]}')
    worker.socket.send(data)
    worker.socket.send(data)
    expect((await worker.next('bye')).error.code).toBe('signature_invalid')
  })

  test('one that is no frame', async () => {
    await using worker = await open()
    worker.socket.send(worker.codec.seal('{"type":"commit","items":[{}]}'))
    expect((await worker.next('bye')).error.code).toBe('invalid_request')
  })

  test('one that is too large', async () => {
    await using worker = await open()
    worker.socket.on('error', () => {})
    worker.socket.send('x'.repeat(LIMITS.maxFrameBytes.value + 100))
    expect(await worker.closed).toBe(1009)
  })
})

test('connections leave nothing behind', async () => {
  const identity = await front.join()
  const worker = await connectWorker(front.coordinator.url, identity)
  const sessions = async () => (await (await front.fetch('/health')).json()).sessions
  expect(await sessions()).toBe(1)
  await worker[Symbol.asyncDispose]()
  while ((await sessions()) > 0) await setImmediate()
  expect(await front.network.nodes.get(identity.id)).toMatchObject({ status: 'suspect' })
})
