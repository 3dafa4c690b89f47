import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  commitOf,
  connectWorker,
  dial,
  openTestFront,
  problemOf,
  resultOf,
  type SocketWorker,
  signedHello,
  type TestFront,
  testIdentity,
} from '@bramble/coordinator/testing'
import type { Identity } from '@bramble/identity'
import { type Commit, type Job, type Lease, LIMITS, type Problem } from '@bramble/protocol'
import { Bramble } from '@bramble/sdk'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

/** One node of a network does everything that a node must not; the others are honest. Real sockets, a real coordinator. */

const RIGHT = 'the right answer'
const HONEST = 3

let front: TestFront
let client: Bramble
let liar: Identity
let session: SocketWorker
let crowd: AsyncDisposableStack
/** Honest nodes answer what they hold from here on. */
let release: () => void

beforeEach(async () => {
  front = await openTestFront({ config: { leaseMs: 1_500, heartbeatMs: 500, silentMs: 60_000 } })
  client = new Bramble({ url: front.coordinator.url, apiKey: front.key })
  crowd = new AsyncDisposableStack()
  const released = Promise.withResolvers<void>()
  release = released.resolve
  for (let number = 0; number < HONEST; number++) {
    const identity = await front.join({ anchor: true })
    honest(crowd.use(await connectWorker(front.coordinator.url, identity)), identity, released.promise)
  }
  liar = await front.join({ owner: 'mallory' })
  session = crowd.use(await connectWorker(front.coordinator.url, liar))
})
afterEach(async () => {
  await crowd.disposeAsync()
  await front[Symbol.asyncDispose]()
})

/** Renews what it runs, and gives the right answer to all of it, once it may. */
const honest = (worker: SocketWorker, identity: Identity, released: Promise<void>): void => {
  const running = new Map<string, Lease>()
  const beat = setInterval(() => {
    const refs = [...running.values()].map(({ execution, token }) => ({ execution, token }))
    worker.send({ type: 'beat', running: refs })
  }, 250)
  const work = async (): Promise<void> => {
    for (;;) {
      const { items } = await worker.next('lease')
      for (const lease of items) {
        running.set(lease.execution, lease)
        void released.then(() => {
          running.delete(lease.execution)
          if (worker.socket.readyState === worker.socket.OPEN)
            worker.send({ type: 'commit', items: [commitOf(identity, lease, resultOf(RIGHT))] })
        })
      }
    }
  }
  work().catch(() => clearInterval(beat))
}

/** A job that all four are asked at once; and what the liar was given of it. */
const submit = async (): Promise<{ job: Job; lease: Lease }> => {
  const request = { command: 'answer', redundancy: HONEST + 1, consensus: 3, strategy: 'eager' } as const
  const job = await client.jobs.submit(request)
  for (;;) {
    const { items } = await session.next('lease')
    const lease = items.find((each) => each.job === job.id)
    if (lease) return { job, lease }
  }
}

const errorOf = async ({ execution }: Lease): Promise<Problem | undefined> => {
  for (;;) {
    const { items } = await session.next('ack')
    const item = items.find((each) => each.execution === execution)
    if (item) return item.error
  }
}

/** The others' answer is the job's, whatever the liar did; and evidence, accounts and the record of the liar say so. */
const endsRight = async ({ job, lease }: { job: Job; lease: Lease }): Promise<void> => {
  release()
  const done = await client.jobs.wait(job.id)
  expect(done).toMatchObject({ status: 'completed', result: { stdout: { content: RIGHT } } })
  expect(await client.jobs.verify(job.id)).toMatchObject({ valid: true })
  const executions = await client.jobs.executions(job.id)
  const own = executions.find(({ id }) => id === lease.execution)
  expect(own?.validity).not.toBe('agreed')
  expect((await front.store.balances()).total).toBe(0)
  expect(await front.store.ledger('owner:mallory', { limit: 1 })).toEqual([])
  expect((await client.network.node(liar.id)).trust.agreements).toBe(0)
}

/** What the owner reads of it: in the node, in its record, and asked for under the node's own key. */
const isTold = async (kind: string, message: RegExp): Promise<void> => {
  await expect
    .poll(async () => (await client.network.reputation(liar.id).all()).find((entry) => entry.kind === kind))
    .toMatchObject({ kind, message: expect.stringMatching(message) })
  expect((await client.network.node(liar.id)).message).toMatch(message)
  const own = await front.signed(liar, `/api/v1/nodes/${liar.id}`)
  expect(await own.json()).toMatchObject({ message: expect.stringMatching(message) })
}

const resigned = (commit: Commit, change: Partial<Commit['receipt']['receipt']>): Commit => {
  const [receipt] = liar.signReceipts([{ ...commit.receipt.receipt, ...change }])
  if (!receipt) throw new Error('nothing was signed')
  return { ...commit, receipt }
}

/** Of secp256k1: both s and n - s sign the same; only the lower one is taken. */
const ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n
const withHighS = (signature: string): string => {
  const s = ORDER - BigInt(`0x${signature.slice(66, 130)}`)
  const v = signature.slice(130) === '1b' ? '1c' : '1b'
  return `${signature.slice(0, 66)}${s.toString(16).padStart(64, '0')}${v}`
}

describe('a result that is refused, with why', () => {
  const refusals: readonly [string, (commit: Commit) => Commit, Problem['code'], RegExp][] = [
    [
      'whose body is not what its hash is of',
      (own) => ({ ...own, result: resultOf('else') }),
      'result_refused',
      /hash/,
    ],
    [
      'whose content is not what its SHA-256 is of',
      (own) => ({
        ...own,
        result: { ...own.result, stdout: { ...resultOf('x').stdout, sha256: own.result.stdout.sha256 } },
      }),
      'result_refused',
      /stdout/,
    ],
    [
      'that says that it is another size',
      (own) => ({
        ...own,
        result: { ...own.result, stdout: { ...own.result.stdout, sizeBytes: 1 } } as Commit['result'],
      }),
      'result_refused',
      /stdout has/,
    ],
    [
      'of another job',
      (own) => resigned(own, { job: 'job_01m7z0r2c1b182r3ygp80j3tmy' as never }),
      'result_refused',
      /job/,
    ],
    ['of another network', (own) => resigned(own, { network: `0x${'13'.repeat(32)}` }), 'result_refused', /network/],
    ['of another token', (own) => resigned(own, { token: 77 }), 'result_refused', /token/],
    [
      'of another execution',
      (own) => resigned(own, { execution: 'exe_01m7z0r2c1b182r3ygp80j3tmy' as never }),
      'result_refused',
      /execution/,
    ],
    [
      'that took longer than there is',
      (own) => resigned(own, { finishedAtMs: Number.MAX_SAFE_INTEGER }),
      'result_refused',
      /finishedAtMs/,
    ],
    [
      'that ended before it began',
      (own) => resigned(own, { startedAtMs: 10, finishedAtMs: 2 }),
      'result_refused',
      /finishedAtMs/,
    ],
    [
      'that nobody signed',
      (own) => ({ ...own, receipt: { ...own.receipt, signature: `0x${'11'.repeat(64)}1b` } }),
      'signature_invalid',
      /not signed/,
    ],
    [
      'whose signature can be had from another by who has no key',
      (own) => ({ ...own, receipt: { ...own.receipt, signature: withHighS(own.receipt.signature) } }),
      'signature_invalid',
      /not signed/,
    ],
    [
      'that was changed after it was signed',
      (own) => ({ ...own, receipt: { ...own.receipt, receipt: { ...own.receipt.receipt, cpuMs: 5 } } }),
      'signature_invalid',
      /not signed/,
    ],
  ]
  test.each(refusals)('%s', async (_what, spoil, code, message) => {
    const given = await submit()
    const own = commitOf(liar, given.lease, resultOf('mine'))
    session.send({ type: 'commit', items: [spoil(own)] })
    expect(await errorOf(given.lease)).toMatchObject({ code, detail: expect.stringMatching(message) })
    await isTold('invalid', message)
    await endsRight(given)
  })

  test('with the receipt of somebody else', async () => {
    const given = await submit()
    const other = commitOf(testIdentity(), given.lease, resultOf('mine'))
    session.send({
      type: 'commit',
      items: [{ ...commitOf(liar, given.lease, resultOf('mine')), receipt: other.receipt }],
    })
    expect(await errorOf(given.lease)).toMatchObject({ code: 'signature_invalid' })
    await isTold('invalid', /not signed/)
    await endsRight(given)
  })

  test('with a receipt of its own, from before', async () => {
    const before = await submit()
    const earlier = commitOf(liar, before.lease, resultOf('mine'))
    session.send({ type: 'commit', items: [earlier] })
    expect(await errorOf(before.lease)).toBeUndefined()
    const given = await submit()
    const { execution, token } = given.lease
    session.send({ type: 'commit', items: [{ ...earlier, execution, token }] })
    expect(await errorOf(given.lease)).toMatchObject({ code: 'result_refused' })
    await endsRight(given)
  })

  test('whose blob was never put, and a blob that is not what it is called', async () => {
    const given = await submit()
    const bytes = Buffer.from('y'.repeat(100_000))
    const sha256 = createHash('sha256').update('something else').digest('hex')
    const put = await front.signed(liar, `/api/v1/worker/blobs/${sha256}`, { method: 'PUT', body: bytes })
    expect(put.status).toBeGreaterThanOrEqual(400)
    const result = resultOf('')
    const named = { ...result, stdout: { blob: sha256, sizeBytes: bytes.length, sha256 } } as Commit['result']
    session.send({ type: 'commit', items: [commitOf(liar, given.lease, named)] })
    expect(await errorOf(given.lease)).toMatchObject({
      code: 'result_refused',
      detail: expect.stringContaining(sha256),
    })
    await isTold('failed', /was not put by this node/)
    await endsRight(given)
  })
})

describe('a node that', () => {
  test('is wrong is outvoted, and loses ten points', async () => {
    const given = await submit()
    session.send({ type: 'commit', items: [commitOf(liar, given.lease, resultOf('a lie'))] })
    expect(await errorOf(given.lease)).toBeUndefined()
    await endsRight(given)
    await isTold('disagreed', /agreed on|differs|not the one/)
    expect((await client.network.node(liar.id)).trust).toMatchObject({ score: 90, disagreements: 1 })
  })

  test('says nothing loses its lease; what it says later is recorded, and does not count', async () => {
    const given = await submit()
    const alive = setInterval(() => session.send({ type: 'beat', running: [] }), 250)
    const { items } = await session.next('cancel')
    clearInterval(alive)
    await isTold('timeout', /did not renew/)
    expect(items).toMatchObject([{ execution: given.lease.execution }])
    session.send({ type: 'commit', items: [commitOf(liar, given.lease, resultOf(RIGHT))] })
    expect(await errorOf(given.lease)).toMatchObject({ code: 'lease_lost' })
    await isTold('late', /late/)
    await endsRight(given)
    expect((await client.network.reputation(liar.id).all()).map(({ kind }) => kind)).toEqual(['late', 'timeout'])
  })

  const frames: readonly [string, (lease: Lease, own: Commit) => string, RegExp][] = [
    [
      'NaN',
      (_lease, own) => JSON.stringify({ type: 'commit', items: [own] }).replace('"cpuMs":1', '"cpuMs":NaN'),
      /JSON/,
    ],
    [
      'Infinity',
      (_lease, own) => JSON.stringify({ type: 'commit', items: [own] }).replace('"cpuMs":1', '"cpuMs":1e999'),
      /cpuMs/,
    ],
    [
      'a negative number',
      (_lease, own) => JSON.stringify({ type: 'commit', items: [own] }).replace('"cpuMs":1', '"cpuMs":-1'),
      /cpuMs/,
    ],
    [
      'a progress of two',
      ({ execution, token }) => JSON.stringify({ type: 'beat', running: [{ execution, token, progress: 2 }] }),
      /progress/,
    ],
    [
      'more leases than there may be',
      ({ execution, token }) =>
        JSON.stringify({
          type: 'beat',
          running: Array.from({ length: LIMITS.maxLeases.value + 1 }, () => ({ execution, token })),
        }),
      /running/,
    ],
  ]
  test.each(frames)('says %s is told so, and its session ends', async (_what, frame, message) => {
    const given = await submit()
    session.socket.send(session.codec.seal(frame(given.lease, commitOf(liar, given.lease, resultOf('mine')))))
    const { error, retryAfterMs } = await session.next('bye')
    expect(error.detail).toMatch(message)
    expect(retryAfterMs).toBeUndefined()
    await session.closed
    await endsRight(given)
  })

  test('sends a frame that is too large is cut off', async () => {
    const given = await submit()
    session.socket.send(session.codec.seal(`"${'x'.repeat(2 * LIMITS.maxFrameBytes.value)}"`))
    expect(await session.closed).toBe(1009)
    await endsRight(given)
  })

  test('repeats a frame, or a hello, or a request, is refused', async () => {
    const given = await submit()
    const beat = session.codec.seal('{"type":"beat","running":[]}')
    session.socket.send(beat)
    session.socket.send(beat)
    expect((await session.next('bye')).error.code).toBe('signature_invalid')

    const first = await dial(front.coordinator.url, liar.id)
    const { hello } = signedHello(liar, first.challenge)
    first.socket.terminate()
    const second = await dial(front.coordinator.url, liar.id)
    second.socket.send(JSON.stringify(hello))
    const [data] = await once(second.socket, 'message')
    expect(JSON.parse(String(data))).toMatchObject({ type: 'bye', error: { code: 'signature_invalid' } })

    const nonce = 'ab'.repeat(16)
    const ask = () => front.signed(liar, `/api/v1/nodes/${liar.id}`, { nonce })
    expect((await ask()).status).toBe(200)
    expect((await problemOf(await ask())).code).toBe('replayed')
    await endsRight(given)
  })

  test('says what others have is not heard: its leases alone are its own', async () => {
    const given = await submit()
    const others = (await client.jobs.executions(given.job.id)).filter(({ node }) => node !== liar.id)
    expect(others).toHaveLength(HONEST)
    const items = others.map(({ id: execution, token }) => ({ execution, token, code: 'x', message: 'it is broken' }))
    session.send({ type: 'failed', items })
    const { items: answered } = await session.next('ack')
    expect(answered.map(({ error }) => error?.code)).toEqual(others.map(() => 'lease_lost'))
    const stolen = others.map((execution) =>
      commitOf(liar, { ...given.lease, execution: execution.id, token: execution.token }, resultOf('stolen')),
    )
    session.send({ type: 'commit', items: stolen })
    expect((await session.next('ack')).items.map(({ error }) => error?.code)).toEqual(others.map(() => 'lease_lost'))
    await endsRight(given)
  })
})
