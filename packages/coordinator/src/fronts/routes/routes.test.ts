import { hash } from 'node:crypto'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import {
  type JobEvent,
  jobEvidenceSchema,
  jobSchema,
  LIMITS,
  networkNodeSchema,
  networkStatsSchema,
  newKeySchema,
  pageSchema,
} from '@bramble/protocol'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { commitOf, ended, joinWorker, nodeReport, resultOf, testIdentity } from '../../testing/test-network.ts'
import { openTestFront, problemOf, type TestFront } from '../testing/open-test-front.ts'

let front: TestFront
beforeEach(async () => {
  front = await openTestFront({ limits: { failuresPerSecond: 1, failuresBurst: 8, heartbeatMs: 20 } })
})
afterEach(() => front[Symbol.asyncDispose]())

const JOB = { command: 'echo hi', redundancy: 1 }
const submit = async (form: object = {}, options: { key?: string; headers?: Record<string, string> } = {}) => {
  const response = await front.fetch('/api/v1/jobs', { json: { ...JOB, ...form }, ...options })
  if (response.status !== 201) throw new Error(await response.text())
  return { response, job: jobSchema.parse(await response.json()) }
}
const keyFor = async (tenant: string, more: object = {}): Promise<string> => {
  const response = await front.fetch('/api/v1/keys', { json: { name: tenant, tenant, ...more } })
  return newKeySchema.parse(await response.json()).key
}
const answers = (stdout = 'hi') => joinWorker(front, { answer: () => stdout })

/** Events of a stream as `[id, event]`, until it ends. */
const eventsOf = async (response: Response): Promise<[number, JobEvent][]> =>
  (await response.text())
    .split('\n\n')
    .filter((block) => block.startsWith('id:'))
    .map((block) => [Number(/^id: (\d+)/.exec(block)?.[1]), JSON.parse(block.slice(block.indexOf('data: ') + 6))])

describe('jobs', () => {
  test('are submitted, shown, listed, proved and cancelled', async () => {
    await answers()
    const { job, response } = await submit({ name: 'first' })
    expect(response.headers.get('location')).toBe(`/api/v1/jobs/${job.id}`)
    expect(await ended(front, job.id)).toMatchObject({ status: 'completed' })
    const shown = await (await front.fetch(`/api/v1/jobs/${job.id}`)).json()
    expect(shown).toMatchObject({ name: 'first', status: 'completed', result: { stdout: { content: 'hi' } } })
    const page = pageSchema(jobSchema).parse(await (await front.fetch('/api/v1/jobs?status=completed')).json())
    expect(page.items.map(({ id }) => id)).toEqual([job.id])
    expect(page.items[0]).not.toHaveProperty('result')
    const { items } = await (await front.fetch(`/api/v1/jobs/${job.id}/executions`)).json()
    expect(items).toMatchObject([{ status: 'completed', validity: 'agreed' }])
    const evidence = jobEvidenceSchema.parse(await (await front.fetch(`/api/v1/jobs/${job.id}/receipts`)).json())
    expect(evidence.receipts).toHaveLength(1)
    const waiting = await submit({ resources: { memoryMb: 500_000 } })
    const cancelled = await front.fetch(`/api/v1/jobs/${waiting.job.id}`, { method: 'DELETE' })
    expect(await cancelled.json()).toMatchObject({ status: 'cancelled' })
  })

  test('one key is one job, whatever happens to the answer; another body under it is refused', async () => {
    const headers = { 'idempotency-key': 'mine' }
    const all = await Promise.all([1, 2, 3].map(() => submit({}, { headers })))
    expect(new Set(all.map(({ job }) => job.id)).size).toBe(1)
    expect(all.filter(({ response }) => response.headers.get('idempotent-replayed') === 'true')).toHaveLength(2)
    const other = await front.fetch('/api/v1/jobs', { json: { ...JOB, command: 'echo other' }, headers })
    expect(await problemOf(other)).toMatchObject({ status: 409, code: 'idempotency_mismatch' })
    const key = await keyFor('other')
    expect((await submit({}, { key, headers })).job.id).not.toBe(all[0]?.job.id)
  })

  test('are nothing to another tenant', async () => {
    await answers()
    const { job } = await submit()
    await ended(front, job.id)
    const key = await keyFor('other')
    for (const path of ['', '/executions', '/receipts', '/events']) {
      const response = await front.fetch(`/api/v1/jobs/${job.id}${path}`, { key })
      expect(await problemOf(response)).toMatchObject({ status: 404, code: 'not_found' })
    }
    const cancel = await front.fetch(`/api/v1/jobs/${job.id}`, { key, method: 'DELETE' })
    expect(cancel.status).toBe(404)
    expect(await (await front.fetch('/api/v1/jobs', { key })).json()).toEqual({ items: [], nextCursor: null })
  })

  test('have a size, and read only blobs that their tenant put', async () => {
    const large = await front.fetch('/api/v1/jobs', { json: { ...JOB, stdin: 'x'.repeat(LIMITS.maxJobBytes.value) } })
    expect(await problemOf(large)).toMatchObject({ code: 'body_too_large' })
    const key = await keyFor('other')
    const sha256 = hash('sha256', 'content')
    await front.fetch(`/api/v1/blobs/${sha256}`, { method: 'PUT', body: 'content', key })
    const json = { ...JOB, files: { '/a': { blob: sha256 } } }
    expect(await problemOf(await front.fetch('/api/v1/jobs', { json }))).toMatchObject({ code: 'blob_not_found' })
    expect((await front.fetch('/api/v1/jobs', { json, key })).status).toBe(201)
  })
})

describe('events of a job', () => {
  test('are told as they happen, numbered, and end with the job; one who comes back goes on', async () => {
    const { job } = await submit()
    const following = front.fetch(`/api/v1/jobs/${job.id}/events`)
    await following
    await answers()
    const events = await eventsOf(await following)
    const last = events.at(-1)
    expect(last?.[1]).toMatchObject({ type: 'job', job: { status: 'completed' } })
    const ids = events.map(([id]) => id)
    expect(ids).toEqual([...ids].sort((left, right) => left - right))
    expect(events.every(([id, event]) => id === event.seq)).toBe(true)
    const headers = { 'last-event-id': String(last?.[0]) }
    const again = await eventsOf(await front.fetch(`/api/v1/jobs/${job.id}/events`, { headers }))
    expect(again.length).toBeLessThan(events.length)
  })

  test('a comment goes out where nothing happens', async () => {
    const { job } = await submit()
    const response = await front.fetch(`/api/v1/jobs/${job.id}/events`)
    let told = ''
    for await (const chunk of response.body ?? []) {
      told += Buffer.from(chunk).toString()
      if (told.includes(': heartbeat')) break
    }
    expect(told).toContain(': heartbeat')
  })

  test('end when the coordinator goes away', async () => {
    const { job } = await submit()
    const response = await front.fetch(`/api/v1/jobs/${job.id}/events`)
    const closing = front.coordinator.close()
    await response.text()
    await closing
  })
})

describe('requests of nodes', () => {
  test('a node registers, works without a stream, and drains', async () => {
    const identity = await front.join()
    const one = `/api/v1/nodes/${identity.id}`
    const beat = await front.signed(identity, `${one}/heartbeat`, { json: { running: [] } })
    expect(await beat.json()).toMatchObject({ keep: [], network: front.config.network })
    const polling = front.signed(identity, `${one}/pending-jobs?waitMs=20000&max=4`)
    const { job } = await submit()
    const { items } = await (await polling).json()
    const [lease] = items
    expect(lease).toMatchObject({ job: job.id })
    const renewed = await front.signed(identity, `/api/v1/worker/lease/${lease.execution}/renew`, {
      json: { token: lease.token },
    })
    expect(await renewed.json()).toEqual({ leaseMs: front.config.leaseMs })
    const json = { commits: [commitOf(identity, lease, resultOf('hi'))], failures: [] }
    const result = await front.signed(identity, '/api/v1/worker/result', { json })
    expect(await result.json()).toEqual({ items: [{ execution: lease.execution, token: lease.token }] })
    expect(await ended(front, job.id)).toMatchObject({ status: 'completed' })
    const again = await (await front.signed(identity, '/api/v1/worker/result', { json })).json()
    expect(again.items).toHaveLength(1)
    const drained = await front.signed(identity, `${one}/drain`, { method: 'POST' })
    expect(networkNodeSchema.parse(await drained.json()).status).toBe('drained')
    expect(await (await front.fetch(`${one}/resume`, { method: 'POST' })).json()).toMatchObject({ status: 'suspect' })
  })

  test('a forged receipt is refused, item by item, and recorded', async () => {
    const identity = await front.join()
    const { job } = await submit()
    const [lease] = (await (await front.signed(identity, `/api/v1/nodes/${identity.id}/pending-jobs`)).json()).items
    const forged = commitOf(testIdentity(), lease, resultOf('hi'))
    forged.receipt.receipt.node = identity.id
    const response = await front.signed(identity, '/api/v1/worker/result', { json: { commits: [forged] } })
    expect((await response.json()).items[0].error.code).toBe('signature_invalid')
    const record = await (await front.fetch(`/api/v1/nodes/${identity.id}/reputation`)).json()
    expect(record.items[0]).toMatchObject({ kind: 'invalid', job: job.id })
    // Other tenants and nodes see that it was at fault, and nothing of whose job it was.
    const made = await front.fetch('/api/v1/keys', { json: { name: 'r', tenant: 'other', scopes: ['read'] } })
    const { key } = await made.json()
    const path = `/api/v1/nodes/${identity.id}`
    const others = [
      await front.fetch(`${path}/reputation`, { key }),
      await front.fetch('/api/v1/nodes', { key }),
      await front.fetch(path, { key }),
      await front.signed(await front.join(), `${path}/reputation`),
    ]
    for (const response of others) {
      expect(response.status).toBe(200)
      const text = await response.text()
      expect(text).toContain(identity.id)
      expect(text).not.toContain(job.id)
      expect(text).not.toContain('not signed by this node')
    }
    expect(await (await front.signed(identity, path)).json()).toMatchObject({ message: expect.any(String) })
  })

  const beatOf = (id: string) => `/api/v1/nodes/${id}/heartbeat`

  test('one that was sent before, at another time, or is another one than was signed', async () => {
    const identity = await front.join()
    const path = beatOf(identity.id)
    const json = { running: [] }
    const nonce = 'ab'.repeat(16)
    expect((await front.signed(identity, path, { json, nonce })).status).toBe(200)
    const replayed = await front.signed(identity, path, { json, nonce })
    expect(await problemOf(replayed)).toMatchObject({ status: 409, code: 'replayed' })
    const late = await front.signed(identity, path, { json, timestampMs: Date.now() - 61_000 })
    expect(Number(late.headers.get('bramble-time'))).toBeGreaterThan(Date.now() - 10_000)
    expect(await problemOf(late)).toMatchObject({ status: 401, code: 'clock_skew' })
    const tampered = [
      await front.signed(identity, path, { json, tamper: () => ({ body: '{"running":[ ]}' }) }),
      await front.signed(identity, path, { json, tamper: () => ({ path: `${path}?x=1` }) }),
      await front.signed(identity, path, {
        json,
        tamper: ({ headers }) => {
          headers.set('bramble-node', testIdentity().id)
          return {}
        },
      }),
      await front.fetch(path, { json }),
    ]
    for (const response of tampered)
      expect(await problemOf(response)).toMatchObject({ status: 401, code: 'signature_invalid' })
  })

  test('one of a node that is not known, and one in another’s name', async () => {
    const [one, other] = [await front.join(), await front.join()]
    const stranger = testIdentity()
    expect((await front.signed(stranger, beatOf(stranger.id), { json: {} })).status).toBe(404)
    expect((await front.signed(one, beatOf(other.id), { json: {} })).status).toBe(403)
    expect((await front.signed(one, `/api/v1/nodes/${other.id}/drain`, { method: 'POST' })).status).toBe(403)
    expect((await front.signed(one, `/api/v1/nodes/${one.id}/suspend`, { json: { message: 'x' } })).status).toBe(401)
  })

  test('an address that fails again and again is not looked at for a while; others are', async () => {
    const identity = await front.join()
    const json = { running: [] }
    const codes = []
    for (let at = 0; at < 10; at++) {
      const wrong = await front.signed(identity, beatOf(identity.id), { json, tamper: () => ({ body: '{}' }) })
      codes.push((await problemOf(wrong)).code)
    }
    expect(codes.slice(0, 8)).toEqual(new Array(8).fill('signature_invalid'))
    expect(codes.at(-1)).toBe('rate_limited')
    const limited = await front.fetch('/api/v1/jobs', { key: 'bramble_wrong' })
    expect(await problemOf(limited)).toMatchObject({ code: 'rate_limited' })
    expect((await front.fetch('/api/v1/jobs')).status).toBe(200)
  })

  test('a registration by another key than it names, in another’s name, or without an invite', async () => {
    const [identity, other] = [testIdentity(), testIdentity()]
    const register = async (node: string, publicKey: string) => {
      const json = { node, publicKey, report: nodeReport() }
      return (await problemOf(await front.signed(identity, '/api/v1/nodes/register', { json }))).code
    }
    expect(await register(identity.id, other.publicKey)).toBe('signature_invalid')
    expect(await register(other.id, other.publicKey)).toBe('forbidden')
    expect(await register(identity.id, identity.publicKey)).toBe('forbidden')
    expect((await front.fetch(`/api/v1/nodes/${identity.id}`)).status).toBe(404)
  })

  test('a flood of registrations is held back, and others are served', async () => {
    await using flooded = await openTestFront({ limits: { registrationsPerSecond: 2 } })
    const statuses = await Promise.all(
      Array.from({ length: 40 }, async () => {
        const identity = testIdentity()
        const json = { node: identity.id, publicKey: identity.publicKey, report: nodeReport() }
        return (await flooded.signed(identity, '/api/v1/nodes/register', { json })).status
      }),
    )
    expect(statuses.filter((status) => status === 403).length).toBeLessThan(20)
    expect(statuses.filter((status) => status === 429).length).toBeGreaterThan(20)
    expect((await flooded.fetch('/api/v1/jobs', { json: JOB })).status).toBe(201)
  })

  test('what identifies a node’s machine is nobody’s business', async () => {
    const { id } = await front.join()
    const known = await (await front.fetch(`/api/v1/nodes/${id}`)).json()
    expect(networkNodeSchema.parse(known)).toMatchObject({ id, status: 'suspect' })
    expect(known.report).not.toHaveProperty('machine')
  })
})

describe('blobs', () => {
  test('a client reads what it put: whole, in part, and nobody else does', async () => {
    const sha256 = hash('sha256', '0123456789')
    const path = `/api/v1/blobs/${sha256}`
    const put = await front.fetch('/api/v1/blobs', { method: 'PUT', body: '0123456789' })
    expect(await put.json()).toMatchObject({ hash: sha256, sizeBytes: 10, origin: 'put' })
    expect(await (await front.fetch(path)).text()).toBe('0123456789')
    const part = await front.fetch(path, { headers: { range: 'bytes=2-4' } })
    expect([part.status, part.headers.get('content-range'), await part.text()]).toEqual([206, 'bytes 2-4/10', '234'])
    expect((await front.fetch(path, { headers: { range: 'bytes=20-' } })).status).toBe(416)
    expect((await front.fetch(path, { headers: { 'if-none-match': `"${sha256}"` } })).status).toBe(304)
    expect((await front.fetch(path, { method: 'HEAD' })).headers.get('content-length')).toBe('10')
    expect((await front.fetch(path, { key: await keyFor('other') })).status).toBe(404)
    const identity = await front.join()
    expect(await (await front.signed(identity, `/api/v1/worker/blobs/${sha256}`)).text()).toBe('0123456789')
  })

  test('other bytes than were named are refused, and nothing of them is kept', async () => {
    const path = `/api/v1/blobs/${hash('sha256', 'these')}`
    const wrong = await front.fetch(path, { method: 'PUT', body: 'those' })
    expect(await problemOf(wrong)).toMatchObject({ code: 'blob_corrupt' })
    expect((await front.fetch(path)).status).toBe(404)
    const identity = await front.join()
    const signed = await front.signed(identity, `/api/v1/worker/blobs/${hash('sha256', 'these')}`, {
      method: 'PUT',
      body: Buffer.from('those'),
    })
    expect(await problemOf(signed)).toMatchObject({ code: 'signature_invalid' })
  })

  test('a worker reads inputs, and not what another worker put', async () => {
    const [one, other] = [await front.join(), await front.join()]
    const bytes = Buffer.from('a result')
    const path = `/api/v1/worker/blobs/${hash('sha256', bytes)}`
    expect((await front.signed(one, path, { method: 'PUT', body: bytes })).status).toBe(200)
    expect((await front.signed(other, path)).status).toBe(404)
  })

  test('one of no known size is refused', async () => {
    const { port } = front.coordinator
    const socket = connect(port, '127.0.0.1')
    const head = `PUT /api/v1/blobs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${front.key}\r\n`
    socket.write(`${head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n`)
    expect(await text(socket)).toContain('HTTP/1.1 400')
  })
})

describe('keys', () => {
  test('a key has its tenant and scopes, is found at once, and is refused once it is gone', async () => {
    const made = await front.fetch('/api/v1/keys', { json: { name: 'r', tenant: 'acme', scopes: ['read'] } })
    const { key, id } = newKeySchema.parse(await made.json())
    expect((await front.fetch('/api/v1/jobs', { key })).status).toBe(200)
    expect(await problemOf(await front.fetch('/api/v1/jobs', { key, json: JOB }))).toMatchObject({ code: 'forbidden' })
    const listed = await (await front.fetch('/api/v1/keys')).json()
    expect(listed.items).toHaveLength(2)
    expect(JSON.stringify(listed)).not.toContain(key)
    expect((await front.fetch(`/api/v1/keys/${id}`, { method: 'DELETE' })).status).toBe(204)
    expect((await front.fetch('/api/v1/jobs', { key })).status).toBe(401)
    const [admin] = listed.items.filter(({ scopes }: { scopes: string[] }) => scopes.includes('admin'))
    expect((await front.fetch(`/api/v1/keys/${admin.id}`, { method: 'DELETE' })).status).toBe(409)
  })

  test('a key with a rate is told to wait', async () => {
    const key = await keyFor('slow', { quota: { requestsPerSecond: 1 } })
    const responses = await Promise.all([1, 2, 3].map(() => front.fetch('/api/v1/jobs', { key })))
    expect(responses.map(({ status }) => status).sort()).toEqual([200, 429, 429])
  })

  test('credits are given by an admin', async () => {
    const given = await front.fetch('/api/v1/credits', { json: { tenant: 'acme', credits: 5 } })
    expect(await given.json()).toEqual({ tenant: 'acme', balance: front.config.grantCredits + 5 })
    const key = await keyFor('acme')
    expect((await front.fetch('/api/v1/credits', { key, json: { tenant: 'acme', credits: 5 } })).status).toBe(403)
  })
})

describe('operations', () => {
  test('stats, health, readiness', async () => {
    await front.join()
    const stats = networkStatsSchema.parse(await (await front.fetch('/stats')).json())
    expect(stats).toMatchObject({ network: front.config.network, nodes: { suspect: 1 } })
    expect(await (await front.fetch('/health', { key: null })).json()).toMatchObject({ status: 'ok', writer: 'test' })
    expect(await (await front.fetch('/ready', { key: null })).json()).toEqual({ status: 'ready' })
  })

  test('metrics have the names that operators know', async () => {
    await answers()
    await ended(front, (await submit()).job.id)
    const metrics = await (await front.fetch('/metrics')).text()
    for (const name of ['http_requests_total', 'http_request_duration_seconds', 'job_execution_duration_seconds'])
      expect(metrics).toContain(`# TYPE ${name}`)
    expect(metrics).toContain('jobs_total{status="completed"} 1')
    expect(metrics).toContain('nodes_total{status="online"} 1')
    expect(metrics).toContain('verification_consensus_reached 1')
  })

  test('the API describes itself', async () => {
    const document = await (await front.fetch('/openapi.json', { key: null })).json()
    expect(document.paths['/api/v1/jobs'].post.requestBody).toBeDefined()
    expect(document.paths['/api/v1/worker/result'].post.security).toEqual([{ node: [] }])
    expect(await (await front.fetch('/docs', { key: null })).text()).toContain('Bramble: a network')
  })
})
