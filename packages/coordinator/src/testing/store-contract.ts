import { BrambleError, type JobId } from '@bramble/protocol'
import { beforeEach, describe, expect, type TestContext, test } from 'vitest'
import type { Loaded, Store } from '../store/store.ts'
import { aBatch, aJob, aNodeId, anEntry, aRemark, ended } from './records.ts'

/** Data under test, that nothing else uses. */
export interface StoreSubject {
  /** A store over that data; several may be open at once, as if each were another coordinator's. */
  open(): Promise<Store>
  /** The coordinator of that store died some time ago: it does not come back, and its lease has run out. */
  died(store: Store): Promise<void>
  /** Removes the data. */
  close(): Promise<void>
}

export interface StoreContractOptions {
  /** Throws, or skips the test, where this host cannot run the driver. */
  open(context: TestContext): Promise<StoreSubject>
}

const TTL_MS = 60_000
const claim = (name: string) => ({ name, url: `http://${name}.test/`, ttlMs: TTL_MS })

const HOSTILE = {
  'a NUL': 'a\u0000b',
  'a lone surrogate': 'a\ud800b',
  'another lone surrogate': 'a\ud801b',
  'what the escape of a NUL looks like': 'a\\u0000b',
  quotes: `'"\`; drop table jobs; -- $1 ? %s`,
  'a replacement character': 'a\ufffdb',
  nothing: '',
  'an emoji': '🦊',
  'line ends': '\r\n\t\u2028',
  braces: '{NULL,"x"}\\',
}

const recordsOf = async ({ log }: Loaded) => {
  const records: { seq: number; at: number; record: unknown }[] = []
  for await (const record of log) records.push(record)
  return records
}

const leading = async (store: Store, name = 'one'): Promise<number> => {
  const lease = await store.acquire(claim(name))
  if (!lease.held) throw new Error(`${lease.name} holds the lease`)
  return lease.epoch
}

/** What every store promises. Called at the top of a test file, once for each driver. */
export const testStore = (name: string, options: StoreContractOptions): void => {
  describe(`${name}: a store`, () => {
    let subject: StoreSubject
    let store: Store
    let others: Store[] = []
    const another = async (): Promise<Store> => {
      const opened = await subject.open()
      others.push(opened)
      return opened
    }
    beforeEach(async (context) => {
      subject = await options.open(context)
      store = await subject.open()
      others = []
      return async () => {
        for (const other of others) await other.close()
        await store.close()
        await store.close()
        await subject.close()
      }
    })

    test('begins empty', async () => {
      const loaded = await store.load()
      expect(loaded).toMatchObject({ seq: 0, documents: [], jobs: [] })
      expect(await recordsOf(loaded)).toEqual([])
      expect(await store.countJobs()).toEqual({})
      expect(await store.balances()).toEqual({ total: 0, byKind: {} })
      expect(await store.writer()).toBeUndefined()
      expect(await store.job(aJob().id)).toBeUndefined()
      expect(await store.document('node', 'x')).toBeUndefined()
    })

    test('gives a writer that begins what the last one left: documents, open jobs, the log behind the checkpoint', async () => {
      const epoch = await leading(store)
      const [open, done, later] = [aJob(), ended(aJob()), aJob()]
      const documents = [
        { kind: 'node', id: 'a', value: { n: 1 } },
        { kind: 'node', id: 'b', value: [1, null, 'x'] },
        { kind: 'key', id: 'a', value: 'text' },
      ]
      await store.append(
        epoch,
        aBatch(1, { log: [{ n: 1 }, { n: 2 }], jobs: [{ state: open }, { state: done }], documents }),
      )
      await store.append(epoch, aBatch(3, { log: ['three'], documents: [{ kind: 'node', id: 'a', value: undefined }] }))
      await store.append(epoch, aBatch(4, { log: [4, 5, 6], checkpoint: 4 }))
      await store.append(epoch, aBatch(7, { documents: [{ kind: 'key', id: 'a', value: 'newer' }] }))
      await store.append(epoch, aBatch(7, { log: [null], jobs: [{ state: later }] }))
      const loaded = await (await another()).load()
      expect(loaded.seq).toBe(7)
      expect(loaded.documents).toHaveLength(2)
      expect(loaded.documents).toContainEqual({ kind: 'node', id: 'b', value: [1, null, 'x'] })
      expect(loaded.documents).toContainEqual({ kind: 'key', id: 'a', value: 'newer' })
      expect(loaded.jobs).toEqual([open, later])
      expect(await recordsOf(loaded)).toEqual([
        { seq: 5, at: 1004, record: 5 },
        { seq: 6, at: 1004, record: 6 },
        { seq: 7, at: 1007, record: null },
      ])
    })

    test('counts on where everything is behind the checkpoint', async () => {
      const epoch = await leading(store)
      await store.append(epoch, aBatch(1, { log: [1, 2, 3] }))
      await store.append(epoch, aBatch(4, { checkpoint: 3 }))
      const loaded = await store.load()
      expect(loaded.seq).toBe(3)
      expect(await recordsOf(loaded)).toEqual([])
    })

    test('removes the log behind the checkpoint, a part with each append, and nothing of what follows it', async () => {
      const epoch = await leading(store)
      for (let seq = 1; seq <= 300; seq++) await store.append(epoch, aBatch(seq, { log: [seq] }))
      await store.append(epoch, aBatch(301, { log: [301], checkpoint: 290 }))
      for (let seq = 302; seq <= 310; seq++) await store.append(epoch, aBatch(seq, { log: [seq] }))
      const left = await recordsOf(await store.load())
      expect(left.map(({ seq }) => seq)).toEqual(Array.from({ length: 20 }, (_, n) => n + 291))
    })

    test('writes all of a batch or nothing', async () => {
      const epoch = await leading(store)
      await store.append(epoch, aBatch(1, { log: [1], ledger: [anEntry(1, 'issuer', 'tenant:acme', 10)] }))
      const job = aJob()
      const broken = aBatch(2, {
        log: [2],
        jobs: [{ state: job, idempotency: { key: 'k', digest: 'd' } }],
        documents: [{ kind: 'node', id: 'a', value: 1 }],
        reputation: [aRemark(1, aNodeId(1))],
        ledger: [anEntry(2, 'issuer', 'tenant:acme', 5), anEntry(1, 'issuer', 'tenant:acme', 5)],
        checkpoint: 2,
      })
      await expect(store.append(epoch, broken)).rejects.toMatchObject({ code: 'conflict' })
      expect(await store.job(job.id)).toBeUndefined()
      expect(await store.idempotent('acme', 'k')).toBeUndefined()
      expect(await store.document('node', 'a')).toBeUndefined()
      expect(await store.reputation(aNodeId(1), { limit: 10 })).toEqual([])
      expect(await store.ledger('tenant:acme', { limit: 10 })).toHaveLength(1)
      expect(await store.balances()).toEqual({ total: 0, byKind: { issuer: -10, tenant: 10 } })
      expect(await store.countJobs()).toEqual({})
      const loaded = await store.load()
      expect(await recordsOf(loaded)).toEqual([{ seq: 1, at: 1001, record: 1 }])
      await store.append(epoch, aBatch(2, { log: ['two'] }))
      expect((await store.load()).seq).toBe(2)
    })

    test('has one writer: of two that ask, one gets it, and the other is told who', async () => {
      const other = await another()
      const leases = await Promise.all([store.acquire(claim('one')), other.acquire(claim('two'))])
      expect(leases.filter(({ held }) => held)).toHaveLength(1)
      const winner = leases[0].held ? 'one' : 'two'
      const loser = leases.find((lease) => !lease.held)
      expect(loser).toMatchObject({ held: false, name: winner, url: `http://${winner}.test/` })
      if (loser && !loser.held) expect(loser.leftMs).toBeGreaterThan(0)
      expect(await store.writer()).toEqual({ name: winner, url: `http://${winner}.test/` })
      expect(await other.acquire(claim('three'))).toMatchObject({ held: false, name: winner })
    })

    test('passes a released lease on at once; the old epoch can write no more', async () => {
      const other = await another()
      const first = await leading(store)
      expect(await store.renew(first, TTL_MS)).toBe(true)
      await store.append(first, aBatch(1, { log: [1] }))
      await store.release(first)
      await store.release(first)
      expect(await store.writer()).toBeUndefined()
      await expect(store.append(first, aBatch(2, { log: [2] }))).rejects.toMatchObject({ code: 'not_leader' })
      const second = await leading(other, 'two')
      expect(second).toBeGreaterThan(first)
      expect(await store.renew(first, TTL_MS)).toBe(false)
      await expect(store.append(first, aBatch(2, { log: [2] }))).rejects.toMatchObject({ code: 'not_leader' })
      await other.append(second, aBatch(2, { log: ['two'] }))
      await store.release(first)
      expect(await other.renew(second, TTL_MS)).toBe(true)
      expect((await recordsOf(await other.load())).map(({ record }) => record)).toEqual([1, 'two'])
    })

    test('passes the lease of one that died on, and fences what that one still sends', async () => {
      const other = await another()
      const first = await leading(store)
      await store.append(first, aBatch(1, { log: [1] }))
      await subject.died(store)
      const second = await leading(other, 'two')
      expect(second).toBeGreaterThan(first)
      expect(await other.writer()).toMatchObject({ name: 'two' })
      await other.append(second, aBatch(2, { log: [2] }))
      const late = await another()
      await expect(late.append(first, aBatch(2, { log: ['late'] }))).rejects.toMatchObject({ code: 'not_leader' })
      expect((await recordsOf(await late.load())).map(({ record }) => record)).toEqual([1, 2])
    })

    test('keeps the latest of a job, within a batch and over several, with the key it was submitted with', async () => {
      const epoch = await leading(store)
      const job = aJob({ labels: { a: '1' } })
      const idempotency = { key: 'k', digest: 'd' }
      const running = { ...job, status: 'running' as const }
      await store.append(epoch, aBatch(1, { jobs: [{ state: job, idempotency }, { state: running }] }))
      expect(await store.job(job.id)).toEqual(running)
      expect(await store.idempotent('acme', 'k')).toEqual({ job: job.id, digest: 'd' })
      expect(await store.countJobs()).toEqual({ running: 1 })
      await store.append(epoch, aBatch(1, { jobs: [{ state: ended(job) }] }))
      expect(await store.job(job.id)).toEqual(ended(job))
      expect(await store.idempotent('acme', 'k')).toEqual({ job: job.id, digest: 'd' })
      expect(await store.countJobs()).toEqual({ completed: 1 })
      expect((await store.load()).jobs).toEqual([])
      await store.append(epoch, aBatch(1, { jobs: [{ state: { ...job, reopened: 1 } }] }))
      expect((await store.load()).jobs).toMatchObject([{ id: job.id, reopened: 1 }])
    })

    test('has an idempotency key once for each tenant', async () => {
      const epoch = await leading(store)
      const idempotency = { key: 'k', digest: 'd' }
      const [ours, theirs] = [aJob(), aJob({ tenant: 'other' })]
      await store.append(epoch, aBatch(1, { jobs: [ours, theirs].map((state) => ({ state, idempotency })) }))
      expect(await store.idempotent('other', 'k')).toEqual({ job: theirs.id, digest: 'd' })
      expect(await store.idempotent('third', 'k')).toBeUndefined()
      await expect(store.append(epoch, aBatch(1, { jobs: [{ state: aJob(), idempotency }] }))).rejects.toMatchObject({
        code: 'conflict',
      })
      await store.append(epoch, aBatch(1, { jobs: [{ state: aJob() }, { state: aJob() }] }))
    })

    test('gives pages of a tenant’s jobs, newest first, by status and label', async () => {
      const epoch = await leading(store)
      const jobs = Array.from({ length: 25 }, (_, n) =>
        aJob({ labels: { n: String(n), ...(n % 2 === 0 && { even: '' }), 'a=b': 'c' } }),
      )
      const foreign = aJob({ tenant: 'other', labels: { n: '3' } })
      const stored = jobs.map((job, n) => ({ state: n % 5 === 0 ? ended(job, 'failed') : job }))
      await store.append(epoch, aBatch(1, { jobs: [...stored, { state: foreign }] }))
      const ids = async (query: Partial<Parameters<Store['jobs']>[0]>) =>
        (await store.jobs({ tenant: 'acme', limit: 100, ...query })).map(({ id }) => id)
      const newest = jobs.map(({ id }) => id).reverse()
      const those = (accepts: (n: number) => boolean) => newest.filter((_, n) => accepts(24 - n))
      expect(await ids({})).toEqual(newest)
      const first = await ids({ limit: 10 })
      const second = await ids({ limit: 10, cursor: first[9] ?? '' })
      expect([...first, ...second, ...(await ids({ limit: 10, cursor: second[9] ?? '' }))]).toEqual(newest)
      expect(await ids({ status: 'failed' })).toEqual(those((n) => n % 5 === 0))
      expect(await ids({ status: 'failed', limit: 2, cursor: jobs[20]?.id ?? '' })).toEqual([
        jobs[15]?.id,
        jobs[10]?.id,
      ])
      expect(await ids({ label: 'n=3' })).toEqual([jobs[3]?.id])
      expect(await ids({ label: 'even' })).toEqual(those((n) => n % 2 === 0))
      expect(await ids({ label: 'even=' })).toEqual(those((n) => n % 2 === 0))
      expect(await ids({ label: 'even=x' })).toEqual([])
      expect(await ids({ label: 'even', status: 'failed', limit: 2 })).toEqual([jobs[20]?.id, jobs[10]?.id])
      expect(await ids({ label: 'even', cursor: jobs[4]?.id ?? '' })).toEqual([jobs[2]?.id, jobs[0]?.id])
      expect(await ids({ tenant: 'other' })).toEqual([foreign.id])
      expect(await ids({ tenant: 'nobody' })).toEqual([])
    })

    test('finds the jobs that a node decided alone and that are not settled', async () => {
      const epoch = await leading(store)
      const node = aNodeId(7)
      const [settled, one, two, foreign] = [ended(aJob()), ended(aJob()), ended(aJob()), ended(aJob())]
      const jobs = [
        { state: settled, provisional: { node, until: 100 } },
        { state: one, provisional: { node, until: 300 } },
        { state: two, provisional: { node, until: 200 } },
        { state: foreign, provisional: { node: aNodeId(8), until: 300 } },
      ]
      await store.append(epoch, aBatch(1, { jobs }))
      const ids = async (now: number, limit = 10) => (await store.provisional(node, now, limit)).map(({ id }) => id)
      expect(await ids(100)).toEqual([two.id, one.id])
      expect(await ids(100, 1)).toEqual([two.id])
      expect(await ids(250)).toEqual([one.id])
      await store.append(epoch, aBatch(1, { jobs: [{ state: one }] }))
      expect(await ids(100)).toEqual([two.id])
    })

    test('gives pages of a node’s record and of an account, newest first; what is moved adds up to nothing', async () => {
      const epoch = await leading(store)
      const [node, other] = [aNodeId(1), aNodeId(2)]
      const reputation = [
        aRemark(1, node, { ms: 5 }),
        aRemark(2, other),
        aRemark(3, node, { message: 'm' }),
        aRemark(9, node),
      ]
      const job = aJob().id
      const ledger = [
        anEntry(1, 'issuer', 'tenant:acme', 100),
        anEntry(2, 'tenant:acme', `hold:${job}`, 30, job),
        anEntry(3, `hold:${job}`, 'owner:bob', 10, job),
        anEntry(4, `hold:${job}`, 'tenant:acme', 20, job),
        anEntry(5, 'tenant:acme', 'tenant:acme', 1),
      ]
      await store.append(epoch, aBatch(1, { reputation, ledger: ledger.slice(0, 2) }))
      await store.append(epoch, aBatch(1, { ledger: ledger.slice(2) }))
      expect(await store.reputation(node, { limit: 2 })).toEqual([reputation[3], reputation[2]])
      expect(await store.reputation(node, { limit: 2, before: 3 })).toEqual([reputation[0]])
      const seqs = async (account: string, query: { before?: number; limit: number }) =>
        (await store.ledger(account, query)).map(({ seq }) => seq)
      expect(await seqs('tenant:acme', { limit: 10 })).toEqual([5, 4, 2, 1])
      expect(await seqs('tenant:acme', { limit: 2, before: 5 })).toEqual([4, 2])
      expect(await store.ledger(`hold:${job}`, { limit: 1 })).toEqual([ledger[3]])
      expect(await store.balances()).toEqual({ total: 0, byKind: { issuer: -100, tenant: 90, hold: 0, owner: 10 } })
    })

    test.each(Object.entries(HOSTILE))('keeps %s wherever somebody may write it', async (_what, text) => {
      const epoch = await leading(store)
      const job = aJob({ tenant: text, labels: { [text]: text, plain: text }, command: text, message: text })
      const value = { [text]: [text] }
      await store.append(
        epoch,
        aBatch(1, {
          log: [text, { text }],
          jobs: [{ state: job, idempotency: { key: text, digest: text } }],
          documents: [{ kind: text, id: text, value }],
          reputation: [aRemark(1, aNodeId(1), { message: text })],
          ledger: [anEntry(1, 'issuer', `tenant:${text}`, 1)],
        }),
      )
      const reader = await another()
      expect(await reader.job(job.id)).toEqual(job)
      expect(await reader.jobs({ tenant: text, limit: 10 })).toEqual([job])
      expect(await reader.jobs({ tenant: text, limit: 10, label: `plain=${text}` })).toEqual([job])
      expect(await reader.idempotent(text, text)).toEqual({ job: job.id, digest: text })
      for (const [what, other] of Object.entries(HOSTILE).filter(([, other]) => other !== text)) {
        expect(await reader.idempotent(other, other), what).toBeUndefined()
        expect(await reader.jobs({ tenant: text, limit: 10, label: `plain=${other}` }), what).toEqual([])
        expect(await reader.document(text, other), what).toBeUndefined()
      }
      expect(await reader.documents(text)).toEqual([{ kind: text, id: text, value }])
      expect(await reader.document(text, text)).toEqual(value)
      expect(await reader.reputation(aNodeId(1), { limit: 1 })).toMatchObject([{ message: text }])
      expect(await reader.ledger(`tenant:${text}`, { limit: 1 })).toMatchObject([{ to: `tenant:${text}` }])
      const loaded = await reader.load()
      expect(loaded.documents).toEqual([{ kind: text, id: text, value }])
      expect((await recordsOf(loaded)).map(({ record }) => record)).toEqual([text, { text }])
    })

    test('keeps values of a megabyte, and keys that no index would take', async () => {
      const epoch = await leading(store)
      const long = (fill: string) => Array.from({ length: 4096 }, (_, n) => `${fill}${n * 7919}é`).join('')
      const large = 'x"\\\u0000'.repeat(300_000)
      const job = aJob({ tenant: long('t'), labels: { [long('n')]: long('v') }, message: large })
      const documents = [{ kind: long('k'), id: long('i'), value: large }]
      const stored = { state: job, idempotency: { key: long('a'), digest: long('d') } }
      await store.append(epoch, aBatch(1, { log: [large, large], jobs: [stored], documents }))
      expect(await store.job(job.id)).toEqual(job)
      expect(await store.jobs({ tenant: job.tenant, limit: 10, label: `${long('n')}=${long('v')}` })).toEqual([job])
      expect((await store.idempotent(job.tenant, long('a')))?.job).toBe(job.id)
      expect(await store.idempotent(job.tenant, long('b'))).toBeUndefined()
      expect(await store.document(long('k'), long('i'))).toBe(large)
      expect(await store.documents(long('k'))).toEqual(documents)
      expect((await recordsOf(await store.load())).map(({ record }) => record)).toEqual([large, large])
    })

    test('takes batches of thousands', async () => {
      const epoch = await leading(store)
      const jobs = Array.from({ length: 3000 }, (_, n) => ({
        state: aJob({ labels: { n: String(n % 10) } }),
        idempotency: { key: `k${n}`, digest: 'd' },
      }))
      const log = Array.from({ length: 10_000 }, (_, n) => ({ n }))
      const documents = jobs.map((_, n) => ({ kind: 'node', id: `n${n}`, value: { n } }))
      const reputation = jobs.map((_, n) => aRemark(n, aNodeId(n % 7)))
      const ledger = jobs.map(({ state }, n) => anEntry(n, 'tenant:acme', `hold:${state.id}`, 1, state.id))
      await store.append(epoch, aBatch(1, { log, jobs, documents, reputation, ledger }))
      const loaded = await store.load()
      expect(loaded.seq).toBe(10_000)
      expect(loaded.documents).toHaveLength(3000)
      expect(loaded.jobs.map(({ id }) => id)).toEqual(jobs.map(({ state }) => state.id))
      expect(await recordsOf(loaded)).toHaveLength(10_000)
      expect(await store.countJobs()).toEqual({ pending: 3000 })
      expect(await store.balances()).toEqual({ total: 0, byKind: { tenant: -3000, hold: 3000 } })
      const removed = documents.map(({ kind, id }) => ({ kind, id, value: undefined }))
      const gone = jobs.map(({ state }) => ({ state: ended(state) }))
      await store.append(epoch, aBatch(10_001, { documents: removed, jobs: gone, checkpoint: 10_000 }))
      expect(await store.load()).toMatchObject({ seq: 10_000, documents: [], jobs: [] })
    })

    test('keeps what was given when it was asked to, and gives copies', async () => {
      const epoch = await leading(store)
      const job = aJob()
      const before = structuredClone(job)
      const appended = store.append(
        epoch,
        aBatch(1, { jobs: [{ state: job }], documents: [{ kind: 'k', id: 'i', value: job }] }),
      )
      job.status = 'cancelled'
      await appended
      const found = await store.job(job.id)
      expect(found).toEqual(before)
      if (found) found.lastToken = 99
      expect(await store.job(job.id)).toEqual(before)
      expect(await store.document('k', 'i')).toEqual(before)
    })

    test('tells errors by their code', async () => {
      const refused = await store.append(7, aBatch(1)).catch((error: unknown) => error)
      expect(refused).toBeInstanceOf(BrambleError)
      expect(refused).toMatchObject({ code: 'not_leader', retryable: true })
      expect(await store.job('job_none' as JobId)).toBeUndefined()
    })
  })
}
