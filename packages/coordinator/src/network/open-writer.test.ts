import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CoordinatorFrame, jobHasEnded, type Lease } from '@bramble/protocol'
import { afterEach, describe, expect, it, type TestContext } from 'vitest'
import { DEFAULT_VERIFICATION } from '../core/policy.ts'
import { memoryStore } from '../store/memory-store.ts'
import { postgresStore } from '../store/postgres-store.ts'
import { sqliteStore } from '../store/sqlite-store.ts'
import type { Store } from '../store/store.ts'
import {
  commitOf,
  ended,
  jobRequest,
  joinWorker,
  nodeReport,
  openTestNetwork,
  resultOf,
  type TestWorker,
  testIdentity,
} from '../testing/test-network.ts'
import { testTime } from '../testing/test-time.ts'
import { usePostgres } from '../testing/use-postgres.ts'

const tenant = 'default'

const onlyLease = ({ leases }: TestWorker): Lease => {
  const [lease, ...more] = leases
  if (!lease || more.length > 0) throw new Error(`${leases.length} leases`)
  return lease
}
const codesOf = ({ frames }: TestWorker) =>
  frames.flatMap((frame) => (frame.type === 'ack' ? frame.items.map(({ error }) => error?.code) : []))

const postgres = usePostgres()
const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const STORES: Record<string, (context: TestContext, now: () => number) => Promise<Store>> = {
  memory: async (_context, now) => memoryStore({ now }),
  SQLite: async () => {
    const directory = mkdtempSync(join(tmpdir(), 'bramble-network-'))
    ends.push(async () => rmSync(directory, { recursive: true }))
    return sqliteStore({ path: join(directory, 'network.db') })
  },
  PostgreSQL: async (context) => postgresStore({ url: await postgres(context).newDatabase() }),
}

describe.each(Object.keys(STORES))('a network in %s', (kind) => {
  const open = async (context: TestContext, options: Parameters<typeof openTestNetwork>[0] = {}) => {
    const store = await STORES[kind]?.(context, options.now ?? Date.now)
    if (!store) throw new Error(`no store ${kind}`)
    ends.push(() => store.close())
    return openTestNetwork({ ...options, store })
  }

  it('verifies a job when two nodes of three agree, and pays their owners', async (context) => {
    const test = await open(context)
    await using network = test.network
    for (let i = 0; i < 3; i++) await joinWorker(test, { answer: () => 'hi\n' })
    const { job } = await network.jobs.submit({ tenant, request: jobRequest() })
    const done = await ended(test, job.id)
    expect(done.status).toBe('completed')
    expect(done.verification).toMatchObject({ decidedBy: 'quorum', agreed: 2, needed: 2, executions: 2 })
    expect(done.result?.stdout).toMatchObject({ content: 'hi\n' })
    const { total, byKind } = await test.store.balances()
    expect(total).toBe(0)
    expect(byKind).toMatchObject({ owner: 2_000_000 })
    expect((await network.stats()).credits).toMatchObject({ held: 0, earned: 2 })
  })

  it('asks a third node when two disagree, and says who was wrong', async (context) => {
    const test = await open(context)
    await using network = test.network
    let asked = 0
    for (let i = 0; i < 3; i++) await joinWorker(test, { answer: () => (asked++ === 0 ? 'wrong' : 'right') })
    const { job } = await network.jobs.submit({ tenant, request: jobRequest() })
    const done = await ended(test, job.id)
    expect(done).toMatchObject({ status: 'completed', result: { stdout: { content: 'right' } } })
    const executions = await network.jobs.executions(job.id, tenant)
    expect(executions.map(({ validity }) => validity).sort()).toEqual(['agreed', 'agreed', 'disagreed'])
  })

  it('goes on after a crash with what it told: open jobs, leases and their tokens', async (context) => {
    const test = await open(context)
    const first = await joinWorker(test)
    const second = await joinWorker(test)
    const { job } = await test.network.jobs.submit({ tenant, request: jobRequest() })
    await first.commit(onlyLease(first), 'hi')
    const { execution, token } = onlyLease(second)
    // The first writer is left as a crash leaves it: it is not closed, and nothing more is written by it.
    await test.store.release(1)
    const again = await openTestNetwork({ store: test.store, identity: test.identity })
    await using network = again.network
    expect((await network.jobs.get(job.id, tenant)).status).toBe('verifying')
    const report = nodeReport({ machine: 'again' })
    const hello = { node: second.identity.id, subnet: '10.0.0', report }
    second.session = await network.session({ ...hello, running: [{ execution, token }] }, () => {})
    expect(second.session.welcome.keep).toEqual([{ execution, token }])
    await second.commit(onlyLease(second), 'hi')
    expect((await network.jobs.get(job.id, tenant)).status).toBe('completed')
    expect((await test.store.balances()).total).toBe(0)
    await expect(test.network.jobs.submit({ tenant, request: jobRequest() })).rejects.toMatchObject({
      code: 'not_leader',
    })
  })

  it('takes the latest session of a node for its own, also after a crash, whichever is opened anew first', async (context) => {
    const test = await open(context)
    const { identity } = await joinWorker(test)
    const hello = { node: identity.id, subnet: '10.0.0', report: nodeReport(), running: [] }
    const stale = await test.network.session(hello, () => {})
    const latest = await test.network.session(hello, () => {})
    await test.store.release(1)
    await using network = (await openTestNetwork({ store: test.store, identity: test.identity })).network
    const heard: CoordinatorFrame[] = []
    await network.session({ ...hello, since: latest.welcome.session }, (frame) => heard.push(frame))
    await expect(network.session({ ...hello, since: stale.welcome.session }, () => {})).rejects.toMatchObject({
      ...{ code: 'conflict', retryAfterMs: 5_000 },
    })
    expect(heard).toEqual([])
    // A new connection is later than all that were before, and the one it ends may come back.
    await network.session(hello, () => {})
    expect(heard).toMatchObject([{ type: 'bye', error: { code: 'conflict' }, retryAfterMs: 5_000 }])
  })

  it('keeps trust and balances over a checkpoint and a crash', async (context) => {
    const time = testTime()
    const test = await open(context, { ...time, network: { checkpointRecords: 1 } })
    for (let i = 0; i < 2; i++) await joinWorker(test, { owner: `o${i}`, answer: () => 'hi' })
    for (let i = 0; i < 5; i++) {
      const { job } = await test.network.jobs.submit({ tenant, request: jobRequest() })
      await ended(test, job.id)
      time.advance(1000)
    }
    const { items: before } = await test.network.nodes.list({ limit: 10 })
    await test.store.release(1)
    const again = await openTestNetwork({ store: test.store, identity: test.identity, ...time })
    await using network = again.network
    const { items: after } = await network.nodes.list({ limit: 10 })
    expect(after.map(({ trust }) => trust)).toEqual(before.map(({ trust }) => trust))
    expect(after[0]?.trust.agreements).toBe(5)
    expect((await network.stats()).credits).toEqual({ issued: 1_000_000, held: 0, earned: 10 })
  })

  it('places what a node lost elsewhere, and does not count what it says later', async (context) => {
    const time = testTime()
    const test = await open(context, time)
    await using network = test.network
    const silent = await joinWorker(test)
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const lease = onlyLease(silent)
    const other = await joinWorker(test)
    time.advance(test.config.leaseMs + 1000)
    // Answers are durable, and leases go out with them.
    await network.jobs.get(job.id, tenant)
    const again = onlyLease(other)
    expect(again.token).toBeGreaterThan(lease.token)
    await silent.commit(lease, 'late')
    expect(codesOf(silent)).toEqual(['lease_lost'])
    expect((await network.jobs.get(job.id, tenant)).result).toBeUndefined()
    await other.commit(again, 'in time')
    expect((await network.jobs.get(job.id, tenant)).result?.stdout).toMatchObject({ content: 'in time' })
    const executions = await network.jobs.executions(job.id, tenant)
    expect(executions.map(({ status, validity }) => [status, validity])).toEqual([
      ['lost', 'late'],
      ['completed', 'agreed'],
    ])
  })

  it('keeps a lease that is renewed, and asks a node that is back to go on', async (context) => {
    const time = testTime()
    const test = await open(context, time)
    await using network = test.network
    const worker = await joinWorker(test)
    await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const { execution, token } = onlyLease(worker)
    for (let i = 0; i < 4; i++) {
      await worker.session.frame({ type: 'beat', running: [{ execution, token }] })
      time.advance(test.config.leaseMs - 1000)
    }
    worker.session.close()
    await worker.reconnect([{ execution, token }])
    expect(worker.session.welcome.keep).toEqual([{ execution, token }])
    await worker.session.frame({ type: 'beat', running: [{ execution, token: token + 1 }] })
    expect(worker.frames.at(-1)).toMatchObject({ type: 'cancel', items: [{ reason: 'lease_lost' }] })
  })

  it('refuses a result that is not what was signed, and takes a second copy of a good one once', async (context) => {
    const test = await open(context)
    await using network = test.network
    const liar = await joinWorker(test)
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const lease = onlyLease(liar)
    const commit = commitOf(liar.identity, lease, resultOf('signed'))
    const other = await joinWorker(test)
    await liar.session.frame({ type: 'commit', items: [{ ...commit, result: resultOf('sent') }] })
    expect(codesOf(liar)).toEqual(['result_refused'])
    await network.jobs.get(job.id, tenant)
    const good = commitOf(other.identity, onlyLease(other), resultOf('good'))
    for (let i = 0; i < 2; i++) await other.session.frame({ type: 'commit', items: [good] })
    expect(codesOf(other)).toEqual([undefined, undefined])
    expect((await network.stats()).credits.earned).toBe(1)
    expect((await network.jobs.get(job.id, tenant)).status).toBe('completed')
    expect(await network.nodes.reputation(liar.identity.id, { limit: 10 })).toMatchObject([{ kind: 'invalid' }])
  })

  it('asks again what a convicted node said alone, and says that the result was corrected', async (context) => {
    const test = await open(context, { network: { verification: { ...DEFAULT_VERIFICATION, auditShare: 0 } } })
    await using network = test.network
    const request = jobRequest({ policy: 'fast' })
    let lying = false
    const liar = await joinWorker(test, { answer: () => (lying ? 'lie' : 'truth') })
    await joinWorker(test, { anchor: true, answer: () => 'truth' })
    for (let i = 0; i < 12; i++) {
      const { job } = await network.jobs.submit({ tenant, request: jobRequest() })
      await ended(test, job.id)
    }
    lying = true
    const lone: string[] = []
    const before = await network.nodes.get(liar.identity.id)
    expect(before.trust.established).toBe(true)
    while (lone.length === 0) {
      const { job } = await network.jobs.submit({ tenant, request })
      let done = await network.jobs.get(job.id, tenant)
      while (!jobHasEnded(done.status)) {
        // It is audited, the two differ, and there is no third to ask.
        if (done.waiting !== undefined) await network.jobs.cancel(job.id, tenant)
        await new Promise((resolve) => setImmediate(resolve))
        done = await network.jobs.get(job.id, tenant)
      }
      if (done.verification?.decidedBy === 'alone' && JSON.stringify(done.result).includes('lie')) lone.push(job.id)
    }
    await joinWorker(test, { anchor: true, answer: () => 'truth' })
    while ((await network.nodes.get(liar.identity.id)).status !== 'suspended') {
      const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 3, strategy: 'eager' }) })
      await ended(test, job.id)
    }
    const [id = ''] = lone
    let corrected = await network.jobs.get(id as never, tenant)
    while (!corrected.verification?.corrected) {
      corrected = await ended(test, id)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(corrected).toMatchObject({ status: 'completed', result: { stdout: { content: 'truth' } } })
    expect((await test.store.balances()).total).toBe(0)
  })

  it('shows what a job prints to those who come late, and again to nobody who has it', async (context) => {
    const test = await open(context)
    await using network = test.network
    const worker = await joinWorker(test)
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const lease = onlyLease(worker)
    const print = (data: string) =>
      worker.session.frame({ type: 'output', stream: 'stdout', execution: lease.execution, token: lease.token, data })
    await print('one')
    await print('two')
    const events = network.jobs.events(job.id, tenant)[Symbol.asyncIterator]()
    const [one, two, state] = [await events.next(), await events.next(), await events.next()]
    expect([one.value, two.value, state.value]).toMatchObject([{ data: 'one' }, { data: 'two' }, { type: 'job' }])
    const later = network.jobs.events(job.id, tenant, { since: one.value.seq })[Symbol.asyncIterator]()
    expect((await later.next()).value).toMatchObject({ data: 'two' })
    await worker.commit(lease, 'onetwo')
    for (const stream of [events, later]) for (let at = await stream.next(); !at.done; at = await stream.next());
    const after: string[] = []
    for await (const { type } of network.jobs.events(job.id, tenant)) after.push(type)
    expect(after).toEqual(['job'])
  })

  it('keeps the labels that a node was invited with, whatever it says of itself', async (context) => {
    const test = await open(context)
    await using network = test.network
    const { token } = await network.nodes.invite({
      owner: 'o',
      labels: { zone: 'a' },
      anchor: false,
      ttlMs: 1000,
      maxNodes: 1,
    })
    const { id: node, publicKey } = testIdentity()
    const report = nodeReport({ labels: { zone: 'b', own: 'x' } })
    await network.nodes.register({ registration: { node, publicKey, token, report }, subnet: '10' })
    await network.session({ node, report, running: [], subnet: '10' }, () => {})
    await network.nodes.register({ registration: { node, publicKey, report }, subnet: '10' })
    expect((await network.nodes.get(node)).report.labels).toEqual({ zone: 'a', own: 'x' })
  })

  it('lets new nodes decide where no established one comes in time, and trusts none of them more for it', async (context) => {
    const time = testTime()
    const test = await open(context, time)
    await using network = test.network
    const workers = [await joinWorker(test, { answer: () => 'hi' }), await joinWorker(test, { answer: () => 'hi' })]
    // Established, and always busy.
    await joinWorker(test, { anchor: true, report: { slots: 1 } })
    const busy = jobRequest({ redundancy: 1, placement: { nodeLabels: { anchor: 'yes' } } })
    await network.jobs.submit({ tenant, request: busy })
    const anchor = await joinWorker(test, { anchor: true, report: { slots: 1, labels: { anchor: 'yes' } } })
    while (anchor.leases.length === 0) await network.stats()
    const { job } = await network.jobs.submit({
      tenant,
      request: jobRequest({ resources: { gpus: 0, memoryMb: 300 } }),
    })
    const { job: second } = await network.jobs.submit({ tenant, request: jobRequest() })
    for (let at = 0; at < test.config.anchorWaitMs + 2000; at += 1000) {
      time.advance(1000)
      await network.stats()
    }
    const both = [await network.jobs.get(job.id, tenant), await network.jobs.get(second.id, tenant)]
    expect(both.filter(({ status }) => status === 'completed').length).toBeGreaterThan(0)
    for (const { identity } of workers) expect((await network.nodes.get(identity.id)).trust.agreements).toBe(0)
  })

  it('lets the jobs of one tenant convict so many nodes, and no more', async (context) => {
    const test = await open(context, { network: { tenantConvictions: 1, tenantConvictionShare: 0 } })
    await using network = test.network
    const anchors = [await joinWorker(test, { anchor: true }), await joinWorker(test, { anchor: true })]
    const others = [await joinWorker(test, { answer: () => 'x' }), await joinWorker(test, { answer: () => 'y' })]
    for (let i = 0; i < 12; i++) {
      const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 4, strategy: 'eager' }) })
      // The others answer at once; established nodes have the last word.
      for (const anchor of anchors) {
        const lease = anchor.leases.findLast((each) => each.job === job.id)
        if (lease) await anchor.commit(lease, 'agreed')
      }
      await ended(test, job.id)
    }
    const found = await Promise.all(others.map(({ identity }) => network.nodes.get(identity.id)))
    expect(found.map(({ status }) => status).sort()).toEqual(['online', 'suspended'])
    expect(found.find(({ status }) => status === 'online')?.trust.disagreements).toBeGreaterThan(1)
  })

  it('tries again what failed twice after a pause, and not all at once', async (context) => {
    const time = testTime()
    const test = await open(context, time)
    await using network = test.network
    const workers = [await joinWorker(test), await joinWorker(test)]
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const leased = () => workers.reduce((sum, { leases }) => sum + leases.length, 0)
    const fail = async () => {
      const worker = workers.find(({ leases }) => leases.length > 0)
      const lease = worker?.leases.pop()
      if (!worker || !lease) throw new Error('no lease')
      const { execution, token } = lease
      await worker.session.frame({ type: 'failed', items: [{ execution, token, code: 'internal', message: 'no' }] })
      await network.jobs.get(job.id, tenant)
    }
    await fail()
    expect(leased()).toBe(1)
    await fail()
    expect(leased()).toBe(0)
    time.advance(2000)
    await network.jobs.get(job.id, tenant)
    expect(leased()).toBe(1)
  })

  it('says why a job waits, and gives it to a node that comes', async (context) => {
    const test = await open(context)
    await using network = test.network
    await joinWorker(test, { answer: () => 'hi' })
    const { job } = await network.jobs.submit({
      tenant,
      request: jobRequest({ redundancy: 1, resources: { memoryMb: 100_000 } }),
    })
    expect(job.waiting).toMatchObject({ nodes: 1, stopped: { memory: 1 } })
    await joinWorker(test, { report: { memoryMb: 200_000 }, answer: () => 'hi' })
    expect((await ended(test, job.id)).status).toBe('completed')
  })

  it('repeats the answer to a request that came before, and refuses another body under its key', async (context) => {
    const test = await open(context)
    await using network = test.network
    const submit = (digest: string, of = tenant) =>
      network.jobs.submit({ tenant: of, request: jobRequest(), idempotency: { key: 'k', digest } })
    const [first, second] = await Promise.all([submit('a'), submit('a')])
    expect(second.job.id).toBe(first.job.id)
    expect([first.repeated, second.repeated].sort()).toEqual([false, true])
    await expect(submit('b')).rejects.toMatchObject({ code: 'idempotency_mismatch' })
    expect((await submit('b', 'other')).repeated).toBe(false)
    await test.store.release(1)
    const again = await openTestNetwork({ store: test.store, identity: test.identity })
    await using after = again.network
    const repeated = await after.jobs.submit({ tenant, request: jobRequest(), idempotency: { key: 'k', digest: 'a' } })
    expect(repeated).toMatchObject({ repeated: true, job: { id: first.job.id } })
  })

  it('takes no job that its tenant cannot pay, and none of a tenant that has too many', async (context) => {
    const test = await open(context, { network: { grantCredits: 5, maxTenantOpenJobs: 2 } })
    await using network = test.network
    const dear = jobRequest({ creditsRequired: 2 })
    await expect(network.jobs.submit({ tenant, request: dear })).rejects.toMatchObject({ code: 'insufficient_credits' })
    const { job } = await network.jobs.submit({ tenant, request: jobRequest() })
    await network.jobs.cancel(job.id, tenant)
    for (let i = 0; i < 2; i++) await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    await expect(network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })).rejects.toMatchObject({
      code: 'quota_exceeded',
    })
    await expect(network.jobs.get(job.id, 'other')).rejects.toMatchObject({ code: 'not_found' })
    expect((await network.stats()).credits).toMatchObject({ issued: 5, held: 2 })
  })

  it('gives leases to a worker that polls, at once when there are any', async (context) => {
    const test = await open(context)
    await using network = test.network
    const worker = await joinWorker(test)
    worker.session.close()
    const { id } = worker.identity
    await network.nodes.heartbeat(id, [])
    const waiting = network.nodes.poll(id, { waitMs: 50_000, max: 10 })
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const [lease] = await waiting
    if (!lease) throw new Error('no lease')
    expect(await network.nodes.poll(id, { waitMs: 0, max: 10 })).toEqual([])
    await network.nodes.renew(id, lease)
    const commit = commitOf(worker.identity, lease, resultOf('polled'))
    expect(await network.nodes.commit(id, [commit], [])).toEqual([{ execution: lease.execution, token: lease.token }])
    expect((await network.jobs.get(job.id, tenant)).status).toBe('completed')
  })

  it('takes a node by invite only, as often as it says, and each nonce once', async (context) => {
    const test = await open(context)
    await using network = test.network
    const { identity } = await joinWorker(test)
    expect(await network.takeNonce(identity.id, 'n')).toBe(true)
    expect(await network.takeNonce(identity.id, 'n')).toBe(false)
    const registration = {
      node: `0x${'1'.repeat(40)}`,
      publicKey: `0x02${'1'.repeat(64)}`,
      report: nodeReport(),
    } as never
    await expect(network.nodes.register({ registration, subnet: '10' })).rejects.toMatchObject({ code: 'forbidden' })
    const { token } = await network.nodes.invite({ owner: 'o', labels: {}, anchor: false, ttlMs: 1000, maxNodes: 1 })
    const withToken = { ...(registration as object), token } as never
    await network.nodes.register({ registration: withToken, subnet: '10' })
    const another = { ...(withToken as object), node: `0x${'2'.repeat(40)}` } as never
    await expect(network.nodes.register({ registration: another, subnet: '10' })).rejects.toMatchObject({
      code: 'forbidden',
    })
  })
})
