import { afterEach, describe, expect, test } from 'vitest'
import { postgresStore } from '../store/postgres-store.ts'
import { openTestCluster, type TestCluster } from '../testing/test-cluster.ts'
import { ended, jobRequest, joinWorker } from '../testing/test-network.ts'
import { usePostgres } from '../testing/use-postgres.ts'

const server = usePostgres()
const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

const open = async (context: Parameters<typeof server>[0], count = 3): Promise<TestCluster> => {
  const url = await server(context).newDatabase()
  const cluster = openTestCluster({ openStore: () => postgresStore({ url }) })
  ends.push(() => cluster.close())
  for (let n = 0; n < count; n++) await cluster.add()
  await Promise.all(cluster.coordinators.map(({ network }) => network.ready(10_000)))
  return cluster
}
const submit = (tenant = 'default', key?: string) => ({
  tenant,
  request: jobRequest({ redundancy: 1, consensus: 1 }),
  ...(key !== undefined && { idempotency: { key, digest: 'd' } }),
})

describe('coordinators on one PostgreSQL', () => {
  test('are one network: a worker at one runs what is submitted at another', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    expect(cluster.coordinators.filter(({ network }) => network.leads)).toHaveLength(1)
    const [one, two] = cluster.coordinators.filter((coordinator) => coordinator !== writer)
    if (!one || !two) throw new Error('too few')
    await joinWorker(one, { answer: () => 'hi' })
    const { job } = await two.network.jobs.submit(submit())
    expect(await ended(two, job.id)).toMatchObject({ status: 'completed' })
    expect(await writer.network.jobs.get(job.id, 'default')).toMatchObject({ status: 'completed' })
  })

  test('choose another one to write within moments when the one that did ends in good order', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    const other = cluster.other()
    const worker = await joinWorker(other, { answer: () => 'hi' })
    await writer.close()
    const { job } = await other.network.jobs.submit(submit())
    expect(await ended(other, job.id)).toMatchObject({ status: 'completed' })
    expect(worker.frames.filter(({ type }) => type === 'bye')).toEqual([])
    expect((await cluster.writer()).name).not.toBe(writer.name)
  })

  test('lose nothing when the one that writes dies: jobs are there, workers go on with what they ran', async (context) => {
    const cluster = await open(context)
    const writer = await cluster.writer()
    const other = cluster.other()
    const worker = await joinWorker(other)
    const { job } = await other.network.jobs.submit(submit())
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
})
