import type { NodeId } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import {
  commitOf,
  ended,
  jobRequest,
  joinWorker,
  nodeReport,
  openTestNetwork,
  resultOf,
  type TestNetwork,
  testIdentity,
} from '../testing/test-network.ts'
import { testTime } from '../testing/test-time.ts'

const tenant = 'default'

const register = ({ network }: TestNetwork, token: string) => {
  const { id: node, publicKey } = testIdentity()
  const report = nodeReport({ machine: node })
  return network.nodes.register({ registration: { node, publicKey, token, report }, subnet: node })
}

describe('what one who is not trusted can do', () => {
  it('one tenant’s check of a spec says nothing about another tenant’s jobs', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    for (let i = 0; i < 8; i++) await joinWorker(test, { answer: ({ execution }) => execution })
    const request = jobRequest({ determinism: 'check' })
    const { job } = await network.jobs.submit({ tenant: 'mallory', request })
    expect(await ended(test, job.id, 'mallory')).toMatchObject({ determinismClass: 'none' })
    const again = await network.jobs.submit({ tenant: 'mallory', request: jobRequest() })
    expect(again.job.determinismClass).toBe('none')
    expect((await network.jobs.submit({ tenant, request: jobRequest() })).job.determinismClass).toBeUndefined()
  })

  it('one node’s word that output was cut is not a result’s', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    const workers = [await joinWorker(test), await joinWorker(test), await joinWorker(test)]
    const resources = { maxOutputBytes: 1024 }
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ resources, strategy: 'eager' }) })
    const whole = resultOf('x'.repeat(1024))
    for (const [at, { identity, leases, session }] of workers.entries())
      for (const lease of leases) {
        const result = { ...whole, truncated: at === 0 }
        await session.frame({ type: 'commit', items: [commitOf(identity, lease, result)] })
      }
    const { status, result, verification } = await network.jobs.get(job.id, tenant)
    expect({ status, truncated: result?.truncated, agreed: verification?.agreed }).toEqual({
      ...{ status: 'completed', truncated: false, agreed: 2 },
    })
  })

  it('a job whose sealed inputs cannot be opened costs a worker that polls no other lease', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    const { identity, session } = await joinWorker(test)
    session.close()
    await network.nodes.heartbeat(identity.id, [])
    const bytes = Buffer.alloc(64).toString('base64')
    const sealedInputs = { ephemeralKey: bytes.slice(0, 44), ciphertext: bytes }
    const bad = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1, sealedInputs }) })
    const good = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const leases = await network.nodes.poll(identity.id, { waitMs: 0, max: 10 })
    expect(leases.map(({ job }) => job)).toEqual([good.job.id])
    const [execution] = await network.jobs.executions(bad.job.id, tenant)
    expect(execution).toMatchObject({ status: 'failed', message: expect.stringContaining('sealed inputs') })
  })

  it('a session that was replaced is not heard any more', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    const worker = await joinWorker(test)
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const [lease] = worker.leases
    if (!lease) throw new Error('no lease')
    const stale = worker.session
    await worker.reconnect([lease])
    const items = [commitOf(worker.identity, lease, resultOf('hi'))]
    await stale.frame({ type: 'commit', items })
    expect((await network.jobs.get(job.id, tenant)).status).not.toBe('completed')
    await worker.session.frame({ type: 'commit', items })
    expect((await network.jobs.get(job.id, tenant)).status).toBe('completed')
  })

  it('a node that left is not said to have fallen silent by the next writer', async () => {
    const time = testTime()
    const test = await openTestNetwork(time)
    const { identity, session } = await joinWorker(test)
    await session.frame({ type: 'drain' })
    session.close()
    expect((await test.network.nodes.get(identity.id)).status).toBe('offline')
    await test.network.credit(tenant, 1)
    await test.store.release(1)
    const again = await openTestNetwork({ ...time, store: test.store, identity: test.identity })
    await using network = again.network
    time.advance(2 * test.config.silentMs)
    await network.credit(tenant, 1)
    expect(await network.nodes.reputation(identity.id, { limit: 10 })).toEqual([])
  })

  it('a node that may not join uses up nobody’s invite', async () => {
    const test = await openTestNetwork({ network: { maxNodesPerOwner: 1 } })
    await using network = test.network
    await joinWorker(test, { owner: 'full' })
    const { token } = await network.nodes.invite({ ...invite, owner: 'full', maxNodes: 1 })
    for (let i = 0; i < 2; i++) await expect(register(test, token)).rejects.toMatchObject({ code: 'node_suspended' })
  })

  it('strangers cannot add nodes without end, and those that are known come back', async () => {
    const test = await openTestNetwork({ network: { join: 'open', maxNodes: 2 } })
    await using network = test.network
    const join = ({ id: node, publicKey } = testIdentity()) =>
      network.nodes.register({ registration: { node, publicKey, report: nodeReport({ machine: node }) }, subnet: node })
    const known = testIdentity()
    await join(known)
    await join()
    await expect(join()).rejects.toMatchObject({ code: 'quota_exceeded' })
    expect(await join(known)).toMatchObject({ id: known.id })
  })

  it('invites whose time is over are kept by nobody', async () => {
    const time = testTime()
    const test = await openTestNetwork(time)
    await using network = test.network
    await network.nodes.invite(invite)
    time.advance(invite.ttlMs + 1)
    await network.nodes.invite(invite)
    expect(await test.store.documents('invite')).toHaveLength(1)
  })

  it('jobs that have not ended, and results that wait in them, take so much memory of a tenant, and no more', async () => {
    const limits = { maxTenantOpenJobChars: 12_000, maxOpenJobChars: 1_000_000 }
    const test = await openTestNetwork({ network: limits })
    const worker = await joinWorker(test)
    const large = jobRequest({ stdin: 'x'.repeat(5000), placement: { nodeLabels: { nobody: 'has' } } })
    const submit = (of = tenant, request = large) => test.network.jobs.submit({ tenant: of, request })
    const jobs = [await submit(), await submit(), await submit()]
    await expect(submit()).rejects.toMatchObject({ code: 'quota_exceeded' })
    for (const { job } of jobs) await test.network.jobs.cancel(job.id, tenant)
    // What a node answered, and no other has confirmed.
    const { job } = await submit(tenant, jobRequest())
    for (const lease of worker.leases) await worker.commit(lease, 'y'.repeat(15_000))
    expect((await test.network.jobs.get(job.id, tenant)).status).toBe('verifying')
    await expect(submit()).rejects.toMatchObject({ code: 'quota_exceeded' })
    await submit('other')
    await test.store.release(1)
    const again = await openTestNetwork({ store: test.store, identity: test.identity, network: limits })
    await using network = again.network
    await expect(network.jobs.submit({ tenant, request: large })).rejects.toMatchObject({ code: 'quota_exceeded' })
    await network.jobs.cancel(job.id, tenant)
    await network.jobs.submit({ tenant, request: large })
  })

  it('a client that reads nothing of what a job prints holds little of it, and is told how the job is', async () => {
    const test = await openTestNetwork()
    await using network = test.network
    const worker = await joinWorker(test)
    const { job } = await network.jobs.submit({ tenant, request: jobRequest({ redundancy: 1 }) })
    const [lease] = worker.leases
    if (!lease) throw new Error('no lease')
    const events = network.jobs.events(job.id, tenant)[Symbol.asyncIterator]()
    expect((await events.next()).value).toMatchObject({ type: 'job' })
    const print = (data: string) => worker.session.frame({ type: 'output', ...lease, stream: 'stdout', data })
    for (let i = 0; i < 4; i++) await print('x'.repeat(100_000))
    expect((await events.next()).value).toMatchObject({ type: 'job' })
    await events.return?.(undefined)
  })

  it('jobs of all tenants together take so much memory', async () => {
    const test = await openTestNetwork({ network: { maxOpenJobChars: 12_000 } })
    await using network = test.network
    const request = jobRequest({ stdin: 'x'.repeat(13_000) })
    await network.jobs.submit({ tenant, request })
    await expect(network.jobs.submit({ tenant: 'other', request })).rejects.toMatchObject({ code: 'queue_full' })
  })

  it('nonces of some nodes leave room for those of others', async () => {
    const test = await openTestNetwork({ network: { maxNonces: 100 } })
    await using network = test.network
    const flood = '0xf' as NodeId
    const taken = await Promise.all(Array.from({ length: 150 }, (_, n) => network.takeNonce(flood, String(n))))
    expect(taken.filter(Boolean)).toHaveLength(100)
    for (const node of ['0xa', '0xb'] as NodeId[]) {
      expect(await network.takeNonce(node, '1')).toBe(true)
      expect(await network.takeNonce(node, '1')).toBe(false)
    }
    expect(await network.takeNonce(flood, 'more')).toBe(false)
  })
})

const invite = { owner: 'o', anchor: false, labels: {}, ttlMs: 60_000, maxNodes: 1 }
