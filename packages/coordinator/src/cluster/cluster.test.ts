import { afterEach, describe, expect, type TestContext, test } from 'vitest'
import { postgresStore } from '../store/postgres-store.ts'
import { openRedisServer } from '../testing/redis-server.ts'
import { openTestCluster, type TestCluster, type TestClusterOptions } from '../testing/test-cluster.ts'
import { ended, jobRequest, joinWorker } from '../testing/test-network.ts'
import { skipWithout, usePostgres } from '../testing/use-postgres.ts'

const server = usePostgres()
const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const TTL_MS = 1_000

const open = async (
  context: TestContext,
  { count = 3, ...more }: Partial<TestClusterOptions> & { readonly count?: number } = {},
): Promise<TestCluster> => {
  const url = await server(context).newDatabase()
  const cluster = openTestCluster({ openStore: () => postgresStore({ url }), ttlMs: TTL_MS, ...more })
  ends.push(() => cluster.close())
  for (let n = 0; n < count; n++) await cluster.add()
  await Promise.all(cluster.coordinators.map(({ network }) => network.ready(10_000)))
  return cluster
}
const submission = (more: { readonly key?: string; readonly consensus?: number } = {}) => {
  const { key, consensus = 1 } = more
  return {
    tenant: 'default',
    request: jobRequest({ redundancy: consensus, consensus }),
    ...(key !== undefined && { idempotency: { key, digest: 'd' } }),
  }
}
const outcome = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'done',
    (error: { code: string }) => error.code,
  )

describe('coordinators on one PostgreSQL', () => {
  test('are one network: a worker at one runs what is submitted at another', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    expect(cluster.coordinators.filter(({ network }) => network.leads)).toHaveLength(1)
    const [one, two] = cluster.coordinators.filter((coordinator) => coordinator !== writer)
    if (!one || !two) throw new Error('too few')
    await joinWorker(one, { answer: () => 'hi' })
    const { job } = await two.network.jobs.submit(submission())
    expect(await ended(two, job.id)).toMatchObject({ status: 'completed' })
    for (const { network } of cluster.coordinators) {
      expect(await network.jobs.get(job.id, 'default')).toMatchObject({ status: 'completed' })
      expect((await network.nodes.list({ limit: 10 })).items).toHaveLength(1)
      await expect(network.jobs.get(job.id, 'another')).rejects.toMatchObject({ code: 'not_found' })
    }
  })

  test('choose another one to write within moments when the one that did ends in good order', async (context) => {
    // It would last a minute, if it were not given up.
    const cluster = await open(context, { ttlMs: 60_000 })
    const writer = await cluster.writer()
    const other = cluster.other()
    const worker = await joinWorker(other, { answer: () => 'hi' })
    await writer.close()
    const { job } = await other.network.jobs.submit(submission())
    expect(await ended(other, job.id)).toMatchObject({ status: 'completed' })
    expect(worker.frames.filter(({ type }) => type === 'bye')).toEqual([])
    expect((await cluster.writer()).name).not.toBe(writer.name)
  })

  test('lose nothing when the one that writes dies: jobs are there, workers go on with what they ran', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    const other = cluster.other()
    const worker = await joinWorker(other)
    const { job } = await other.network.jobs.submit(submission())
    await expect.poll(() => worker.leases).toHaveLength(1)
    const [lease] = worker.leases
    if (!lease) throw new Error('no lease')
    await worker.session.frame({ type: 'started', items: [{ execution: lease.execution, token: lease.token }] })
    const following = ended(other, job.id)
    await writer.crash()
    // Said while nobody writes: it is taken by the next one.
    await worker.commit(lease, 'hi')
    expect(await following).toMatchObject({ status: 'completed' })
    expect(worker.leases).toHaveLength(1)
    expect(worker.frames.filter(({ type }) => type === 'bye' || type === 'cancel')).toEqual([])
    const executions = await other.network.jobs.executions(job.id, 'default')
    expect(executions).toMatchObject([{ status: 'completed', validity: 'agreed', token: lease.token }])
  })

  test('make a call once more whose writer died in the middle, where that does no harm; and say so where it might', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    const other = cluster.other()
    const { balance } = await other.network.credit('default', 1)
    writer.holdAppends()
    const outcomes = Promise.all([
      other.network.jobs.submit(submission({ key: 'once' })),
      outcome(other.network.jobs.submit(submission())),
      outcome(other.network.credit('default', 5)),
      outcome(other.network.nodes.list({ limit: 1 })),
    ])
    await expect.poll(() => writer.heldAppends).toBeGreaterThan(0)
    await writer.crash()
    const [submitted, ...others] = await outcomes
    expect(submitted).toMatchObject({ repeated: false, job: { status: 'pending' } })
    expect(others).toEqual(['not_leader', 'not_leader', 'done'])
    expect(await other.network.jobs.submit(submission({ key: 'once' }))).toMatchObject({
      repeated: true,
      job: { id: submitted.job.id },
    })
    const { items } = await other.network.jobs.list({ limit: 10 }, 'default')
    expect(items.map(({ id }) => id)).toEqual([submitted.job.id])
    expect((await other.network.credit('default', 0)).balance).toBe(balance - 1)
  })

  test('open many sessions anew at the next writer, each with what its worker runs; what it does not know is stopped', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    const other = cluster.other()
    const workers = await Promise.all(Array.from({ length: 100 }, () => joinWorker(other)))
    const jobs = await Promise.all(workers.map(() => other.network.jobs.submit(submission())))
    const leases = () => workers.flatMap((worker) => worker.leases.map((lease) => ({ worker, lease })))
    await expect.poll(() => leases().length).toBe(jobs.length)
    const leased = leases()
    await writer.crash()
    // What was not started is given again, to the same worker; nothing is given to two.
    await Promise.all(leased.map(({ worker, lease }) => worker.commit(lease, 'hi')))
    for (const { job } of jobs) expect(await ended(other, job.id)).toMatchObject({ status: 'completed' })
    expect(new Set(leases().map(({ lease }) => lease.execution)).size).toBe(jobs.length)
    expect((await other.network.stats()).nodes.online).toBe(100)
  })

  test('do not link to each other without the secret', async (context) => {
    const stranger = 'coordinator-3'
    const secretOf = (name: string) => new Uint8Array(32).fill(name === stranger ? 1 : 7)
    const url = await server(context).newDatabase()
    const cluster = openTestCluster({ openStore: () => postgresStore({ url }), secretOf, ttlMs: 60_000 })
    ends.push(() => cluster.close())
    const [one, two] = [await cluster.add(), await cluster.add()]
    await Promise.all([one.network.ready(10_000), two.network.ready(10_000)])
    const three = await cluster.add()
    await expect
      .poll(() => three.events)
      .toContainEqual(
        expect.objectContaining({ type: 'trouble', error: expect.objectContaining({ code: 'connection_failed' }) }),
      )
    await expect(three.network.ready(1)).rejects.toMatchObject({ code: 'not_leader' })
  })

  test('stop writing when the lease is not theirs any more, and go on with the next', async (context) => {
    const url = await server(context).newDatabase()
    const cluster = openTestCluster({ openStore: () => postgresStore({ url }), ttlMs: TTL_MS })
    ends.push(() => cluster.close())
    const one = await cluster.add()
    await one.network.ready(10_000)
    const { job } = await one.network.jobs.submit(submission())
    // As another would that took it.
    await one.store.release(1)
    await expect.poll(() => one.events.map(({ type }) => type)).toContain('led')
    await expect.poll(() => one.events.filter(({ type }) => type === 'leads').length).toBe(2)
    expect(await one.network.jobs.get(job.id, 'default')).toMatchObject({ id: job.id })
  })

  test('go on after PostgreSQL was restarted', async (context) => {
    const cluster = await open(context)
    const other = cluster.other()
    await joinWorker(other, { answer: () => 'hi' })
    const postgres = server(context)
    await postgres.crash()
    const submitting = other.network.jobs.submit(submission({ key: 'k' }))
    await postgres.start()
    const { job } = await submitting
    expect(await ended(other, job.id)).toMatchObject({ status: 'completed' })
  })

  test('tell each other by Redis, too, and do without it when it is gone', async (context) => {
    const redis = await openRedisServer()
    if ('skip' in redis) return skipWithout(context, 'redis', redis.skip)
    ends.push(() => redis.kill())
    const cluster = await open(context, { redisUrl: redis.url, ttlMs: 60_000 })
    await (await cluster.writer()).close()
    await redis.kill()
    const writer = await cluster.writer()
    const other = cluster.other()
    await joinWorker(other, { answer: () => 'hi' })
    await writer.close()
    const { job } = await other.network.jobs.submit(submission())
    expect(await ended(other, job.id)).toMatchObject({ status: 'completed' })
  })
})
