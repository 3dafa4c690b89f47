import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectWorker, testIdentity } from '@bramble/coordinator/testing'
import type { Identity } from '@bramble/identity'
import { BrambleError, LIMITS, nodeReportSchema } from '@bramble/protocol'
import { Bramble } from '@bramble/sdk'
import { networkClock, signedRequests } from '@bramble/worker'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Child, createChild } from './chaos/child.ts'
import { type BrambleProcess, clientOf, startBramble } from './network-process.ts'

/** A coordinator in a process of its own, on SQLite; a worker that answers; one who asks too much, and one who asks for little. */

const WORKER = fileURLToPath(new URL('chaos/worker-process.ts', import.meta.url))
const MEMORY_BYTES = 200 * 1024 * 1024
const FLOODER = '203.0.113.9'

let coordinator: BrambleProcess
let admin: Bramble
let calm: Bramble
let flooder: string
let worker: Child
let fallen: string[]

beforeEach(async () => {
  fallen = []
  coordinator = await startBramble(['coordinator', '--share-machines', '--trusted-proxies', '127.0.0.1'])
  admin = clientOf(coordinator)
  const url = String(coordinator.ready.url)
  const keyOf = async (tenant: string, requestsPerSecond: number): Promise<string> =>
    (await admin.keys.add({ name: tenant, tenant, quota: { requestsPerSecond } })).key
  flooder = await keyOf('flooder', 50)
  calm = new Bramble({ url, apiKey: await keyOf('calm', 50) })
  const { token } = await admin.network.invite({ owner: 'honest' })
  const keyFile = join(coordinator.dataDirectory, 'worker.key')
  const settings = { url, token, keyFile, machine: 'honest', seed: 1, mostMs: 20, liesShare: 0 }
  worker = createChild({
    place: {
      ...{ address: '127.0.0.1', port: async () => 0, link: undefined },
      wrap: (program, args) => [program, args],
    },
    program: process.execPath,
    args: [WORKER, JSON.stringify(settings)],
    log: join(coordinator.dataDirectory, 'worker.log'),
    ready: '"type":"open"',
    onFallen: (why) => fallen.push(why),
  })
  await worker.start()
})
afterEach(async () => {
  await worker.end('SIGKILL')
  await coordinator[Symbol.asyncDispose]()
})

const residentBytes = (): number =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${coordinator.pid}/status`, 'utf8'))?.[1]) * 1024

/** Does it again and again, `atOnce` at a time, while one who asks for little has jobs verified; what came of each. */
const flood = async <T>(atOnce: number, once: (number: number) => Promise<T>): Promise<T[]> => {
  const outcomes: T[] = []
  let number = 0
  let done = false
  const keepOn = async (): Promise<void> => {
    // The first thousand in any case, however quick the other is.
    while (!done || number < 1000) outcomes.push(await once(number++))
  }
  const flooding = Array.from({ length: atOnce }, keepOn)
  for (let job = 0; job < 5; job++) {
    const { id } = await calm.jobs.submit({ command: `calm ${job}`, redundancy: 1 })
    expect(await calm.jobs.wait(id)).toMatchObject({ status: 'completed' })
  }
  done = true
  await Promise.all(flooding)
  expect(fallen).toEqual([])
  return outcomes
}

const ask = async (path: string, init: RequestInit): Promise<{ status: number; retryAfter: number }> => {
  const headers = { 'x-forwarded-for': FLOODER, ...(init.headers as Record<string, string>) }
  const response = await fetch(`${coordinator.ready.url}${path}`, { ...init, headers })
  await response.arrayBuffer()
  return { status: response.status, retryAfter: Number(response.headers.get('retry-after') ?? 0) }
}
const refusedOf = (answers: readonly { status: number; retryAfter: number }[]) =>
  answers.filter(({ status }) => status === 429)

test('jobs of one tenant, over its rate, are refused with when to come back; another tenant’s are verified', async () => {
  const before = residentBytes()
  const headers = { authorization: `Bearer ${flooder}`, 'content-type': 'application/json' }
  const answers = await flood(16, (number) =>
    ask('/api/v1/jobs', {
      method: 'POST',
      headers,
      body: JSON.stringify({ command: `flood ${number}`, redundancy: 3, env: { FILL: 'x'.repeat(10_000) } }),
    }),
  )
  const refused = refusedOf(answers)
  expect(refused.length).toBeGreaterThan(answers.length / 2)
  expect(refused.every(({ retryAfter }) => retryAfter >= 1)).toBe(true)
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201, 429]))
  expect(residentBytes() - before).toBeLessThan(MEMORY_BYTES)
})

test('requests with keys that nobody has are refused by their address; others of the network go on', async () => {
  const before = residentBytes()
  const answers = await flood(16, (number) =>
    ask('/api/v1/jobs', { headers: { authorization: `Bearer bramble_wrong-${number}` } }),
  )
  const refused = refusedOf(answers)
  expect(refused.length).toBeGreaterThan(answers.length / 2)
  expect(refused.every(({ retryAfter }) => retryAfter >= 1)).toBe(true)
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([401, 429]))
  expect(residentBytes() - before).toBeLessThan(MEMORY_BYTES)
})

const REPORT = nodeReportSchema.parse({
  ...{ version: '0', cpus: 1, memoryMb: 1024, diskMb: 1000, slots: 1, isolation: ['container'], platform: 'x' },
  ...{ machine: 'm', images: [] },
})

const codeOf = (error: unknown): { code: string; retryAfterMs: number } => {
  if (!(error instanceof BrambleError)) throw error
  return { code: error.code, retryAfterMs: error.retryAfterMs ?? 0 }
}

const requestsOf = (identity: Identity) => signedRequests(String(coordinator.ready.url), identity, networkClock())

test('registrations, by whoever has an invite and who has none', async () => {
  const { token } = await admin.network.invite({ owner: 'crowd', maxNodes: 100_000 })
  const before = residentBytes()
  const outcomes = await flood(16, async (number) => {
    const identity = testIdentity()
    const invite = number % 2 === 0 ? token : 'no-such-token'
    const json = { node: identity.id, publicKey: identity.publicKey, token: invite, report: REPORT }
    const sent = requestsOf(identity).json({ method: 'POST', path: 'nodes/register', json })
    return sent.then(() => ({ code: 'taken', retryAfterMs: 0 }), codeOf)
  })
  const limited = outcomes.filter(({ code }) => code === 'rate_limited')
  expect(limited.length).toBeGreaterThan(outcomes.length / 3)
  expect(limited.every(({ retryAfterMs }) => retryAfterMs > 0)).toBe(true)
  expect(new Set(outcomes.map(({ code }) => code)).size).toBe(3)
  expect(residentBytes() - before).toBeLessThan(MEMORY_BYTES)
})

test('heartbeats, as requests and on a stream', async () => {
  const identity = testIdentity()
  const { token } = await admin.network.invite({ owner: 'restless' })
  const requests = requestsOf(identity)
  const json = { node: identity.id, publicKey: identity.publicKey, token, report: REPORT }
  await requests.json({ method: 'POST', path: 'nodes/register', json })
  await using stream = await connectWorker(String(coordinator.ready.url), identity)
  await admin.network.drain(identity.id)
  const before = residentBytes()
  for (let beats = 0; beats < 20_000; beats++) stream.send({ type: 'beat', running: [] })
  const outcomes = await flood(16, async () =>
    requests
      .json({ method: 'POST', path: `nodes/${identity.id}/heartbeat`, json: { running: [] } })
      .then(() => ({ code: 'taken', retryAfterMs: 0 }), codeOf),
  )
  const limited = outcomes.filter(({ code }) => code === 'rate_limited')
  expect(limited.length).toBeGreaterThan(0)
  expect(limited.every(({ retryAfterMs }) => retryAfterMs > 0)).toBe(true)
  expect(residentBytes() - before).toBeLessThan(MEMORY_BYTES)
})

test('a hundred megabytes of log are read at a pace, and a megabyte of them is kept', async () => {
  const identity = testIdentity()
  const { token } = await admin.network.invite({ owner: 'talker', labels: { loud: 'yes' } })
  const report = { ...REPORT, labels: { loud: 'yes' }, cpus: 8, memoryMb: 8192, diskMb: 100_000 }
  const json = { node: identity.id, publicKey: identity.publicKey, token, report }
  await requestsOf(identity).json({ method: 'POST', path: 'nodes/register', json })
  await using stream = await connectWorker(String(coordinator.ready.url), identity)
  await worker.end('SIGKILL')
  const job = await admin.jobs.submit({ command: 'talk', redundancy: 1 })
  const [lease] = (await stream.next('lease')).items
  if (!lease) throw new Error('no lease')
  const { execution, token: fence } = lease
  // It has said enough then: nobody else is there yet to do it.
  await admin.network.drain(identity.id)
  const before = residentBytes()
  const data = 'x'.repeat(250_000)
  stream.send({ type: 'started', items: [{ execution, token: fence }] })
  for (let sent = 0; sent < 100 * 1024 * 1024; sent += data.length)
    stream.send({ type: 'output', execution, token: fence, stream: 'stdout', data })
  stream.send({ type: 'failed', items: [{ execution, token: fence, code: 'tired', message: 'it said enough' }] })
  const own = async () => (await admin.jobs.executions(job.id)).find(({ id }) => id === execution)?.status
  await expect.poll(own, { timeout: 40_000, interval: 250 }).toBe('failed')
  expect(residentBytes() - before).toBeLessThan(MEMORY_BYTES)
  // One who comes now is shown what is kept of it.
  let shown = 0
  for await (const event of admin.jobs.events(job.id)) {
    if (event.type === 'stdout') shown += event.data.length
    if (event.type === 'job') break
  }
  expect(shown).toBeGreaterThan(0)
  expect(shown).toBeLessThanOrEqual(LIMITS.maxJobLogBytes.value)
  await worker.start()
  expect(await admin.jobs.wait(job.id)).toMatchObject({ status: 'completed' })
})
