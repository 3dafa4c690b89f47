import { afterEach, describe, expect, it } from 'vitest'
import { ended, jobRequest, joinWorker, openTestNetwork, type TestWorker } from '../testing/test-network.ts'
import { testTime } from '../testing/test-time.ts'

const tenant = 'default'
const ends: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end()
})

/** A job of one execution that a node has begun, another node that is free, and the time. */
const beginOne = async () => {
  const time = testTime()
  const test = await openTestNetwork({ now: time.now, schedule: time.schedule, network: { grantCredits: 10 } })
  ends.push(() => test.network.close())
  const workers = [await joinWorker(test), await joinWorker(test)]
  const request = jobRequest({ redundancy: 1, consensus: 1 })
  const { job } = await test.network.jobs.submit({ tenant, request })
  const [runs] = workers.filter(({ leases }) => leases.length > 0)
  const [other] = workers.filter(({ leases }) => leases.length === 0)
  const lease = runs?.leases[0]
  if (!runs || !other || !lease) throw new Error('nobody has it')
  const running = [{ execution: lease.execution, token: lease.token }]
  await runs.session.frame({ type: 'started', items: running })
  /** Time passes, and what follows from it is durable. */
  const pass = async (ms: number): Promise<void> => {
    time.advance(ms)
    await test.network.credit('somebody', 1)
  }
  const recordOf = (worker: TestWorker) => test.network.nodes.reputation(worker.identity.id, { limit: 10 })
  return { ...test, time, job, runs, other, lease, running, pass, recordOf }
}

describe('a worker whose connection ends', () => {
  it('without a word loses what it runs soon, to another', async () => {
    const { network, config, job, runs, other, pass, recordOf } = await beginOne()
    runs.session.close({ broken: true })
    await pass(config.reconnectMs - 600)
    expect(other.leases).toEqual([])
    await pass(1200)
    const [again] = other.leases
    if (!again) throw new Error('nobody has it')
    await other.commit(again, 'hello')
    expect(await ended({ network }, job.id, tenant)).toMatchObject({ status: 'completed' })
    // It was away, which is another matter than one that is there and does not do what it was given.
    expect((await recordOf(runs)).map(({ kind }) => kind)).not.toContain('timeout')
  })

  it('goes on with it where it is back in time', async () => {
    const { network, config, job, runs, other, lease, running, pass } = await beginOne()
    runs.session.close({ broken: true })
    await pass(config.reconnectMs - 600)
    await runs.reconnect(running)
    expect(runs.session.welcome.keep).toEqual(running)
    await pass(config.reconnectMs)
    await pass(config.reconnectMs)
    expect(other.leases).toEqual([])
    await runs.commit(lease, 'hello')
    expect(await ended({ network }, job.id, tenant)).toMatchObject({ status: 'completed' })
  })

  it('has the whole lease to come back where its coordinator went away', async () => {
    const { config, runs, other, pass } = await beginOne()
    runs.session.close()
    for (let left = config.leaseMs - 1000; left > 0; left -= config.reconnectMs)
      await pass(Math.min(left, config.reconnectMs))
    expect(other.leases).toEqual([])
    await pass(2000)
    expect(other.leases).toHaveLength(1)
  })

  it('after it drained has left, which a writer that begins anew knows too', async () => {
    const { network, store, identity, config, time, other, pass } = await beginOne()
    await other.session.frame({ type: 'drain' })
    other.session.close()
    await pass(1)
    await network.close()
    // Its lease as the writer is over.
    time.advance(3_600_001)
    const next = await openTestNetwork({ store, identity, now: time.now, schedule: time.schedule })
    ends.push(() => next.network.close())
    for (let passedMs = 0; passedMs <= config.silentMs; passedMs += config.reconnectMs) time.advance(config.reconnectMs)
    await next.network.credit('somebody', 1)
    expect(await next.network.nodes.get(other.identity.id)).toMatchObject({ status: 'offline' })
    expect(await next.network.nodes.reputation(other.identity.id, { limit: 10 })).toEqual([])
  })
})
