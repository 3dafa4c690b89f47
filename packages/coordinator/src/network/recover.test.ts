import type { JobId, JobRequestInput, Lease } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import type { Transition } from '../core/core.ts'
import { DEFAULT_VERIFICATION } from '../core/policy.ts'
import { transition } from '../core/transition.ts'
import { waitingQueue } from '../placement/waiting-queue.ts'
import { memoryStore } from '../store/memory-store.ts'
import { type Random, seededRandom } from '../testing/random.ts'
import {
  commitOf,
  ended,
  jobRequest,
  joinWorker,
  nodeReport,
  openTestNetwork,
  resultOf,
  type TestNetwork,
  type TestWorker,
} from '../testing/test-network.ts'
import { testTime } from '../testing/test-time.ts'
import type { StoredAccount } from './accounts.ts'
import type { Network } from './network.ts'
import type { NodeRecord } from './node-records.ts'
import { TICK_MS } from './ticks.ts'

/** Two stores that are written alike: what a crash at this moment leaves, beside the one that goes on. */
const twins = (now: () => number) => {
  const [store, twin] = [memoryStore({ now }), memoryStore({ now })]
  const { append } = store
  let parted = false
  store.append = async (epoch, batch) => {
    const copy = structuredClone(batch)
    await append(epoch, batch)
    if (!parted) await twin.append(epoch, copy)
  }
  const part = async (): Promise<void> => {
    parted = true
    await twin.release(1)
  }
  return { store, twin, part }
}

const tenant = 'default'
const verification = { ...DEFAULT_VERIFICATION, establishedAgreements: 2, quorumAuditShare: 0.2 }
const config = { verification, checkpointRecords: 40, tenantConvictions: 1000, recentJobs: 4 }

interface History {
  readonly test: TestNetwork
  readonly random: Random
  readonly workers: TestWorker[]
  readonly jobs: JobId[]
  readonly leases: { worker: TestWorker; lease: Lease }[]
  readonly tick: () => void
}

const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 8; turn++) await new Promise(setImmediate)
}

const formOf = (random: Random): Partial<JobRequestInput> => {
  const redundancy = 1 + random.below(4)
  return {
    redundancy,
    consensus: 1 + random.below(redundancy),
    policy: random.pick(['fast', 'fast', 'quorum', 'paranoid'] as const),
    strategy: random.pick(['lazy', 'eager'] as const),
    creditsRequired: random.below(4),
    determinism: random.chance(0.1) ? 'check' : 'profile',
    ...(random.chance(0.2) && { deadline: new Date(Date.now() + random.below(60_000)).toISOString() }),
    ...(random.chance(0.2) && { resources: { cpus: 3 } }),
  }
}

const COMMANDS: readonly (readonly [number, (history: History) => Promise<unknown> | unknown])[] = [
  [
    6,
    async ({ test, random, jobs }) => {
      const { job } = await test.network.jobs.submit({ tenant, request: jobRequest(formOf(random)) })
      jobs.push(job.id)
    },
  ],
  [
    20,
    ({ random, leases }) => {
      const at = random.below(leases.length || 1)
      const [held] = leases.splice(at, 1)
      if (!held) return
      const { worker, lease } = held
      const stdout = random.chance(0.12) ? `lie of ${random.below(2)}` : 'right'
      const { result, ...signed } = commitOf(worker.identity, lease, resultOf(stdout))
      const commit = { ...signed, result: random.chance(0.05) ? { ...result, exitCode: 7 } : result }
      return worker.session.frame({ type: 'commit', items: [commit] })
    },
  ],
  [
    6,
    ({ random, leases }) => {
      const held = leases[random.below(leases.length || 1)]
      return held?.worker.session.frame({ type: 'started', items: [held.lease] })
    },
  ],
  [
    2,
    ({ random, leases }) => {
      const [held] = leases.splice(random.below(leases.length || 1), 1)
      const failure = { code: 'oom', message: 'no memory' }
      return held?.worker.session.frame({ type: 'failed', items: [{ ...held.lease, ...failure }] })
    },
  ],
  [1, ({ test, random, jobs }) => jobs.length > 0 && test.network.jobs.cancel(random.pick(jobs), tenant)],
  [1, ({ test, random, workers }) => test.network.nodes.drain(random.pick(workers).identity.id)],
  [2, ({ test, random, workers }) => test.network.nodes.resume(random.pick(workers).identity.id)],
  [1, ({ test, random, workers }) => test.network.nodes.suspend(random.pick(workers).identity.id, 'a test')],
  [
    4,
    ({ random, workers, leases }) => {
      const worker = random.pick(workers)
      const running = leases.filter((held) => held.worker === worker && random.chance(0.7)).map(({ lease }) => lease)
      return worker.reconnect(running)
    },
  ],
  [1, ({ test }) => test.network.credit(tenant, 1)],
  [5, ({ tick }) => tick()],
]

const step = async (history: History): Promise<void> => {
  const { random } = history
  let at = random.below(COMMANDS.reduce((sum, [weight]) => sum + weight, 0))
  for (const [weight, command] of COMMANDS) {
    at -= weight
    if (at >= 0) continue
    // Nodes that are suspended are refused.
    await Promise.resolve(command(history)).catch(() => {})
    return
  }
}

/** All that a checkpoint wrote, and what else is said of it; not what a node's absence changes. */
const stateOf = async ({ store, network }: TestNetwork, jobs: readonly JobId[]): Promise<unknown> => {
  const { credits, executions } = await network.stats()
  const nodes = (await store.documents('node')).map(({ id, value }) => {
    const { lastSeenAt: _seen, heardAt: _heard, logSeq: _seq, status, message, ...record } = value as NodeRecord
    const isThere = status === 'online' || status === 'suspect' || status === 'draining' || status === 'offline'
    return { id, record, message, status: isThere ? 'known' : status }
  })
  const accounts = (await store.documents('account')).map(({ id, value }) => [id, (value as StoredAccount).balance])
  return {
    credits,
    executions,
    nodes: nodes.sort((left, right) => (left.id < right.id ? -1 : 1)),
    accounts: accounts.sort(),
    owners: await store.documents('owner'),
    invites: await store.documents('invite'),
    classes: await store.documents('class'),
    jobs: (await Promise.all(jobs.map((id) => store.job(id)))).map((job) => ({ ...job, logSeq: 0 })),
    views: await Promise.all(jobs.map((id) => network.jobs.get(id, tenant))),
    balances: await store.balances(),
  }
}

const HISTORIES = 24

/** An anchor has as many agreements as it takes to be established: of its lone results, one in so many is audited. */
const neverAudited = { ...DEFAULT_VERIFICATION, auditShare: 0, establishedAgreements: 1e9 }

/** Asks all four; the liar is the first to answer. */
const convict = async ({ network }: TestNetwork, honest: readonly TestWorker[]): Promise<void> => {
  const request = jobRequest({ redundancy: 4, consensus: 3, strategy: 'eager' })
  const { job } = await network.jobs.submit({ tenant, request })
  while (!(await network.jobs.executions(job.id, tenant)).some(({ status }) => status === 'completed')) await settle()
  for (const worker of honest) for (const lease of worker.leases.splice(0)) await worker.commit(lease, 'true')
}

/** A job that a liar decided alone, and three honest nodes that will convict it with the next one. */
const withLoneLie = async (test: TestNetwork, form: Partial<JobRequestInput>) => {
  const liar = await joinWorker(test, { anchor: true, answer: () => 'a lie' })
  const { job } = await test.network.jobs.submit({ tenant, request: jobRequest({ ...form, policy: 'fast' }) })
  expect(await ended(test, job.id)).toMatchObject({ status: 'completed', verification: { decidedBy: 'alone' } })
  const join = () => joinWorker(test, { anchor: true })
  return { liar, lone: job.id, honest: [await join(), await join(), await join()] }
}

/** Comes to the next writer, and answers all that it is given. */
const rejoin = async (network: Network, { identity }: TestWorker, stdout: string): Promise<void> => {
  const report = nodeReport({ machine: identity.id })
  const opening = network.session({ node: identity.id, subnet: identity.id, report, running: [] }, (frame) => {
    if (frame.type !== 'lease') return
    const items = frame.items.map((lease) => commitOf(identity, lease, resultOf(stdout)))
    void opening.then((session) => session.frame({ type: 'commit', items }))
  })
  // One that was convicted is refused.
  await opening.catch(() => {})
}

describe('a writer that begins from the store', () => {
  it.each(Array.from({ length: HISTORIES }, (_, seed) => seed))(
    'is as the one before it was (history %i)',
    async (seed) => {
      const time = testTime()
      const random = seededRandom(seed)
      const bytes = (into: Uint8Array) => void into.set(into.map(() => random.below(256)))
      const { store, twin, part } = twins(time.now)
      await twin.acquire({ name: 'test', url: '', ttlMs: 3_600_000 })
      let isOver = false
      const untilOver: Transition = (job, event, context) =>
        isOver && job ? { job, effects: [] } : transition(job, event, context)
      const test = await openTestNetwork({
        ...{ store, ...time, random: bytes, network: config, parts: { transition: untilOver } },
      })
      await using _network = test.network
      const history: History = {
        ...{ test, random, workers: [], jobs: [], leases: [] },
        tick: () => time.advance(random.chance(0.1) ? 4 * TICK_MS : TICK_MS),
      }
      for (let i = 0; i < 8; i++) {
        const worker = await joinWorker(test, { anchor: i < 2, owner: `owner-${i >> 1}` })
        worker.leases.push = (...leases) => history.leases.push(...leases.map((lease) => ({ worker, lease })))
        history.workers.push(worker)
      }
      for (let i = 0; i < 150; i++) {
        await step(history)
        if (random.chance(0.6)) await settle()
      }
      await settle()
      await part()
      // Nothing happens any more: in one there are nodes, and in the other nobody is there yet.
      const queue = { ...waitingQueue(), next: () => undefined }
      const again = await openTestNetwork({
        ...{ store: twin, identity: test.identity, ...time, parts: { queue, transition: untilOver } },
        network: { ...config, checkpointRecords: 0 },
      })
      await using _again = again.network
      isOver = true
      const held = (await again.network.stats()).credits
      expect(held).toEqual((await test.network.stats()).credits)
      expect(held.held * 1_000_000).toBe((await store.balances()).byKind.hold ?? 0)
      // Both write what they have: a record makes a checkpoint due.
      for (const { network } of [test, again]) await network.credit('other', 1)
      const due = Array.from({ length: 50 }, () => [test, again]).flat()
      for (const { network } of due) await network.credit('other', 1)
      time.advance(TICK_MS)
      await settle()
      expect(await stateOf(again, history.jobs)).toEqual(await stateOf(test, history.jobs))
    },
  )

  it.each(['before', 'after'] as const)(
    'follows up a conviction whose writer died %s it was written',
    async (moment) => {
      let crash = true
      const store = memoryStore({
        now: Date.now,
        onAppend: (when, { reputation }) => {
          if (!crash || when !== moment || !reputation.some(({ kind }) => kind === 'convicted')) return
          crash = false
          throw new Error('it crashed')
        },
      })
      const failed = Promise.withResolvers<unknown>()
      const test = await openTestNetwork({ store, network: { verification: neverAudited }, onFail: failed.resolve })
      const { liar, honest, lone } = await withLoneLie(test, { creditsRequired: 2, redundancy: 3 })
      await convict(test, honest).catch(() => {})
      await failed.promise
      await store.release(1)
      const again = await openTestNetwork({ store, network: { verification: neverAudited }, identity: test.identity })
      await using network = again.network
      for (const worker of [liar, ...honest]) await rejoin(network, worker, worker === liar ? 'a lie' : 'true')
      for (const { id } of (await network.jobs.list({ limit: 2 }, tenant)).items) await ended(again, id)
      await expect
        .poll(async () => (await network.jobs.get(lone, tenant)).result?.stdout)
        .toMatchObject({ content: 'true' })
      await expect.poll(() => store.documents('convicted')).toEqual([])
      expect((await network.nodes.get(liar.identity.id)).status).toBe('suspended')
      expect((await store.balances()).byKind.hold ?? 0).toBe(0)
    },
  )

  it('looks at no deadline of a job that is asked again: it was met', async () => {
    const time = testTime()
    let looked = 0
    const store = memoryStore({
      now: time.now,
      onAppend: (_when, { log }) => {
        looked += JSON.stringify(log).split('deadline_passed').length - 1
      },
    })
    const test = await openTestNetwork({ store, ...time, network: { verification: neverAudited } })
    await using network = test.network
    const { honest, lone } = await withLoneLie(test, { deadline: new Date(time.now() + 1000).toISOString() })
    await convict(test, honest)
    for (const { session } of honest) session.close()
    await expect.poll(async () => (await network.jobs.get(lone, tenant)).status).toBe('verifying')
    time.advance(10 * TICK_MS)
    expect((await network.jobs.get(lone, tenant)).status).toBe('verifying')
    expect(looked).toBe(0)
  })
})
