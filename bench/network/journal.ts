import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Journal, openJournal, postgresStore, type Store, sqliteStore } from '@bramble/coordinator/store'
import { openPostgresServer } from '@bramble/coordinator/testing'
import { type JobId, jobRequestSchema, newId } from '@bramble/protocol'
import { figuresOf, printTable, type Row, round } from '../run/measure.ts'
import type { BenchOptions } from '../run-suite.ts'
import { jobBody, jobResult } from './payload.ts'

type StoredJob = Parameters<Journal['add']>[0]['jobs'] extends readonly (infer T)[] | undefined ? T : never
type JobState = StoredJob['state']

const CALLERS = 64
const KEPT_JOBS = 1_000_000
const TENANTS = 20
const NODES = 1000

const hex = (bytes: number): string => `0x${randomBytes(bytes).toString('hex')}`
const nodes = Array.from({ length: NODES }, () => hex(20))
const pick = <T>(values: readonly T[]): T => values[Math.floor(Math.random() * values.length)] as T
const request = jobRequestSchema.parse(jobBody)

/** A job as it is when it has ended: two executions that agreed, with what they signed. */
const executionOf = (job: JobId, node: string, token: number) => {
  const [inputHash, resultHash] = [hex(32), hex(32)]
  const receipt = { network: hex(32), job, execution: newId('execution'), token, node, inputHash, resultHash }
  const used = { cpuMs: 1, peakMemoryBytes: 1_000_000, startedAtMs: Date.now(), finishedAtMs: Date.now() }
  return {
    id: receipt.execution,
    token,
    reason: 'first',
    standing: {
      node,
      owner: 'owner-1',
      machine: 'machine-1',
      subnet: '10.0.0.0/24',
      established: true,
      agreements: 12,
    },
    alone: false,
    status: 'completed',
    validity: 'agreed',
    placedAt: Date.now(),
    finishedAt: Date.now(),
    ...{ inputHash, resultHash },
    receipt: { receipt: { ...receipt, ...used }, signature: hex(65) },
    ...(token === 1 && { result: jobResult }),
  }
}

const submitted = (): JobState =>
  ({
    id: newId('job'),
    tenant: `tenant-${Math.floor(Math.random() * TENANTS)}`,
    request,
    status: 'pending',
    createdAt: Date.now(),
    ...{ auditDraw: 0.5, relaxed: [], lastToken: 0, executions: [], wanted: [], reopened: 0, roundToken: 0 },
    ...{ creditsSpent: 0, lastSeq: 1 },
  }) as JobState

const completed = (job: JobState): JobState =>
  ({
    ...job,
    status: 'completed',
    finishedAt: Date.now(),
    executions: [1, 2].map((token) => executionOf(job.id, pick(nodes), token)),
  }) as unknown as JobState

/** Entries are numbered by their records of the log, as a writer's are. */
const moved = (journal: Journal, kind: string, from: string, to: string, job: JobId) => {
  const entry = { kind, from, to, amount: 1_000_000, job, at: Date.now() } as const
  return { ...entry, seq: journal.log({ t: 'l', ...entry }) }
}

const end = (journal: Journal, job: JobState): void => {
  const state = completed(job)
  const at = new Date().toISOString()
  const agreed = state.executions.map(({ id, standing }) => ({
    ...{
      seq: journal.log({ t: 'r', node: standing.node }),
      node: standing.node,
      kind: 'agreed' as const,
      job: job.id,
      execution: id,
      ms: 12,
      at,
    },
  }))
  for (const execution of state.executions) {
    journal.log({ t: 'j', id: job.id, e: { type: 'placed', execution: execution.id, standing: execution.standing } })
    journal.log({ t: 'j', id: job.id, e: { type: 'committed', ...execution } })
  }
  journal.add({
    jobs: [{ state, provisional: { node: pick(state.executions).standing.node, until: Date.now() + 60_000 } }],
    reputation: agreed,
    ledger: [
      moved(journal, 'pay', `hold:${job.id}`, 'owner:owner-1', job.id),
      moved(journal, 'pay', `hold:${job.id}`, 'owner:owner-2', job.id),
      moved(journal, 'release', `hold:${job.id}`, `tenant:${job.tenant}`, job.id),
    ] as never,
  })
}

/** What is written for one job in all; resolves twice: it is taken, it has ended. */
const runJob = async (journal: Journal, acks: number[]): Promise<void> => {
  const job = submitted()
  let began = performance.now()
  journal.log({ t: 'j', id: job.id, e: { type: 'submitted', request: job.request, tenant: job.tenant } })
  journal.add({
    jobs: [{ state: job, idempotency: { key: job.id, digest: 'd' } }],
    ledger: [moved(journal, 'hold', `tenant:${job.tenant}`, `hold:${job.id}`, job.id)] as never,
  })
  await journal.durable()
  acks.push(performance.now() - began)
  began = performance.now()
  end(journal, job)
  await journal.durable()
  acks.push(performance.now() - began)
}

const callFor = async (ms: number, call: (acks: number[]) => Promise<void>) => {
  const acks: number[] = []
  const began = performance.now()
  let calls = 0
  await Promise.all(
    Array.from({ length: CALLERS }, async () => {
      while (performance.now() - began < ms) {
        await call(acks)
        calls++
      }
    }),
  )
  return { perSecond: Math.round((calls / (performance.now() - began)) * 1000), acks }
}

/** Queries that a coordinator answers from its store, one after another. */
const reads = async (store: Store, count: number): Promise<number[]> => {
  const times: number[] = []
  const known = await store.jobs({ tenant: 'tenant-1', limit: 500 })
  for (let n = 0; n < count; n++) {
    const began = performance.now()
    if (n % 4 === 0) await store.job(pick(known).id)
    else if (n % 4 === 1) await store.jobs({ tenant: `tenant-${n % TENANTS}`, limit: 20, label: 'team=vision' })
    else if (n % 4 === 2) await store.provisional(pick(nodes) as never, Date.now(), 20)
    else await store.jobs({ tenant: `tenant-${n % TENANTS}`, limit: 20, status: 'completed', cursor: pick(known).id })
    times.push(performance.now() - began)
  }
  return times
}

/** So many jobs that have ended, with all that is kept of them, of tenants `tenant-0` to `tenant-19`. */
export const fill = async (journal: Journal, jobs: number): Promise<void> => {
  for (let n = 0; n < jobs; n++) {
    end(journal, submitted())
    if (n % 1000 < 999) continue
    await journal.durable()
    journal.checkpoint(journal.seq)
  }
  journal.checkpoint(journal.seq)
  await journal.durable()
}

interface Opened extends AsyncDisposable {
  readonly store: Store
  readonly journal: Journal
}

const openFor = async (opening: Promise<Store>): Promise<Opened> => {
  const store = await opening
  const lease = await store.acquire({ name: 'bench', url: 'http://localhost/', ttlMs: 3_600_000 })
  if (!lease.held) throw new Error(`${lease.name} holds the lease`)
  const { seq } = await store.load()
  const journal = openJournal({ store, epoch: lease.epoch, seq, now: Date.now })
  const close = async (): Promise<void> => {
    await journal.close()
    await store.close()
  }
  return { store, journal, [Symbol.asyncDispose]: close }
}

/** Rounds in turns, so that whatever else the host does is the same for both. */
const ROUNDS = 4

const measureStore = async (open: () => Promise<Store>, options: BenchOptions): Promise<Row[]> => {
  const ms = options.quick ? 1_000 : 4_000
  const kept = options.quick ? 20_000 : KEPT_JOBS
  await using empty = await openFor(open())
  await using full = await openFor(open())
  const { name } = empty.store
  const record = { t: 'x', text: 'x'.repeat(200) }
  const note = async (acks: number[]): Promise<void> => {
    const began = performance.now()
    empty.journal.log(record)
    await empty.journal.durable()
    acks.push(performance.now() - began)
  }
  await callFor(ms, note)
  const records = await callFor(ms, note)
  const rows: Row[] = [
    { name: `${name}: records`, figures: { perSecond: records.perSecond, ...figuresOf(records.acks) } },
  ]
  await fill(full.journal, kept)
  const measured = [
    { opened: empty, finished: 0, perSecond: 0, acks: [] as number[], asked: [] as number[] },
    { opened: full, finished: kept, perSecond: 0, acks: [] as number[], asked: [] as number[] },
  ]
  for (let round = 0; round <= ROUNDS; round++)
    for (const each of measured) {
      const jobs = await callFor(ms, (acks) => runJob(each.opened.journal, acks))
      const asked = await reads(each.opened.store, 1000)
      // The first round warms up.
      if (round === 0) continue
      each.perSecond += jobs.perSecond / ROUNDS
      for (const ack of jobs.acks) each.acks.push(ack)
      each.asked.push(...asked)
    }
  for (const { finished, perSecond, acks, asked } of measured) {
    const { p50: readP50, p99: readP99 } = figuresOf(asked)
    const figures = { jobsPerSecond: Math.round(perSecond), ...figuresOf(acks), readP50, readP99 }
    rows.push({ name: `${name}: jobs, ${finished} finished before`, figures })
  }
  const ratio = (of: (each: (typeof measured)[number]) => number[]): number => {
    const [small = Number.NaN, large = Number.NaN] = measured.map((each) => figuresOf(of(each)).p99)
    return round(large / small)
  }
  const figures = { acks: ratio(({ acks }) => acks), reads: ratio(({ asked }) => asked) }
  const reached = figures.acks <= 1.5 && figures.reads <= 1.5
  rows.push({ name: `${name}: p99, full against empty`, figures, goal: '<= 1.5 times', reached })
  return rows
}

/** Durable records and jobs by 64 callers, in each store; empty, and with a million jobs that have ended. */
export const journal = async (options: BenchOptions): Promise<Row[]> => {
  const rows: Row[] = []
  const directory = mkdtempSync(join(tmpdir(), 'bramble-bench-journal-'))
  let files = 0
  try {
    rows.push(...(await measureStore(() => sqliteStore({ path: join(directory, `${files++}.db`) }), options)))
  } finally {
    rmSync(directory, { recursive: true })
  }
  const server = await openPostgresServer({ fsync: true })
  if ('skip' in server) throw new Error(server.skip)
  await using _server = server
  rows.push(...(await measureStore(async () => postgresStore({ url: await server.newDatabase() }), options)))
  return rows
}

if (import.meta.main) printTable(await journal({ quick: !process.argv.includes('--full') }))
