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

const measureStore = async (store: Store, options: BenchOptions): Promise<Row[]> => {
  const ms = options.quick ? 2_000 : 10_000
  const kept = options.quick ? 20_000 : KEPT_JOBS
  const lease = await store.acquire({ name: 'bench', url: 'http://localhost/', ttlMs: 3_600_000 })
  if (!lease.held) throw new Error(`${lease.name} holds the lease`)
  const { seq } = await store.load()
  await using journal = openJournal({ store, epoch: lease.epoch, seq, now: Date.now })
  const record = { t: 'x', text: 'x'.repeat(200) }
  await callFor(ms / 5, async () => {
    journal.log(record)
    await journal.durable()
  })
  const events = await callFor(ms, async (acks) => {
    const began = performance.now()
    journal.log(record)
    await journal.durable()
    acks.push(performance.now() - began)
  })
  const rows: Row[] = [
    { name: `${store.name}: records`, figures: { perSecond: events.perSecond, ...figuresOf(events.acks) } },
  ]
  const p99: number[] = []
  for (const finished of [0, kept]) {
    if (finished > 0) await fill(journal, finished)
    await callFor(ms / 5, (acks) => runJob(journal, acks))
    const jobs = await callFor(ms, (acks) => runJob(journal, acks))
    await reads(store, 200)
    const asked = figuresOf(await reads(store, 2000))
    const acked = figuresOf(jobs.acks)
    p99.push(acked.p99, asked.p99)
    const figures = { jobsPerSecond: jobs.perSecond, ...acked, readP50: asked.p50, readP99: asked.p99 }
    rows.push({ name: `${store.name}: jobs, ${finished} finished before`, figures })
  }
  const [empty = 0, emptyReads = 0, full = 0, fullReads = 0] = p99
  const figures = { acks: round(full / empty), reads: round(fullReads / emptyReads) }
  const reached = figures.acks <= 1.5 && figures.reads <= 1.5
  rows.push({ name: `${store.name}: p99, full against empty`, figures, goal: '<= 1.5 times', reached })
  return rows
}

/** Durable records and jobs by 64 callers, in each store; empty, and with a million jobs that have ended. */
export const journal = async (options: BenchOptions): Promise<Row[]> => {
  const rows: Row[] = []
  const directory = mkdtempSync(join(tmpdir(), 'bramble-bench-journal-'))
  try {
    await using store = await sqliteStore({ path: join(directory, 'network.db') })
    rows.push(...(await measureStore(store, options)))
  } finally {
    rmSync(directory, { recursive: true })
  }
  const server = await openPostgresServer({ fsync: true })
  if ('skip' in server) throw new Error(server.skip)
  await using _server = server
  await using store = await postgresStore({ url: await server.newDatabase() })
  rows.push(...(await measureStore(store, options)))
  return rows
}

if (import.meta.main) printTable(await journal({ quick: !process.argv.includes('--full') }))
