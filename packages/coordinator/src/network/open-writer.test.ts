import { describe, expect, it } from 'vitest'
import { ended, jobRequest, joinWorker, openTestNetwork } from '../testing/test-network.ts'

const tenant = 'default'

describe('a network', () => {
  it('verifies a job when two nodes of three agree, and pays their owners', async () => {
    const test = await openTestNetwork()
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

  it('asks a third node when two disagree, and says who was wrong', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    let asked = 0
    for (let i = 0; i < 3; i++) await joinWorker(test, { answer: () => (asked++ === 0 ? 'wrong' : 'right') })
    const { job } = await network.jobs.submit({ tenant, request: jobRequest() })
    const done = await ended(test, job.id)
    expect(done).toMatchObject({ status: 'completed', result: { stdout: { content: 'right' } } })
    const executions = await network.jobs.executions(job.id, tenant)
    expect(executions.map(({ validity }) => validity).sort()).toEqual(['agreed', 'agreed', 'disagreed'])
  })

  it('goes on after a crash with what it told: open jobs, leases and their tokens', async () => {
    const test = await openTestNetwork()
    const first = await joinWorker(test)
    const second = await joinWorker(test)
    const { job } = await test.network.jobs.submit({ tenant, request: jobRequest() })
    const [lease] = first.leases
    const [other] = second.leases
    if (!lease || !other) throw new Error('no lease')
    await first.commit(lease, 'hi')
    // The old one is left as a crash leaves it: nothing more is written by it.
    const claim = await test.store.acquire({ name: 'test', url: 'http://127.0.0.1:1', ttlMs: 1000 })
    if (!claim.held) await test.store.release(1)
    const again = await openTestNetwork({ store: test.store, identity: test.identity })
    await using network = again.network
    expect((await network.jobs.get(job.id, tenant)).status).toBe('verifying')
    const session = await network.session(
      {
        ...{ node: second.identity.id, subnet: '10.0.0' },
        report: (await import('../testing/test-network.ts')).nodeReport({ machine: 'again' }),
        running: [{ execution: other.execution, token: other.token }],
      },
      () => {},
    )
    expect(session.welcome.keep).toEqual([{ execution: other.execution, token: other.token }])
    second.session = session
    await second.commit(other, 'hi')
    expect((await network.jobs.get(job.id, tenant)).status).toBe('completed')
    expect((await test.store.balances()).total).toBe(0)
  })
})
