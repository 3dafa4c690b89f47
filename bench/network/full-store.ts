import { type Journal, openJournal, postgresStore, type Store, sqliteStore } from '@bramble/coordinator/store'
import type { NewApiKey } from '@bramble/protocol'
import { quantile, type Row, round } from '../run/measure.ts'
import { fill } from './journal.ts'
import { type CoordinatorChildOptions, STORES, startCoordinator } from './load/coordinator.ts'
import { type HttpPool, openHttpPool } from './load/http-pool.ts'
import { openNetworkLoad } from './load/network-load.ts'
import { openWorkers } from './load/workers.ts'
import { jobBody } from './payload.ts'

/** Of those that `fill` writes jobs for. */
const TENANT = 'tenant-1'
const PACE = 300
const LISTS = ['?limit=20', '?limit=20&status=completed', '?limit=20&label=team%3Dvision', '?limit=100']

const openStoreAt = (where: CoordinatorChildOptions['store']): Promise<Store> =>
  'path' in where ? sqliteStore(where) : postgresStore(where)

/** Before any coordinator is there. */
const fillStore = async (where: CoordinatorChildOptions['store'], jobs: number): Promise<void> => {
  await using store = await openStoreAt(where)
  const lease = await store.acquire({ name: 'fill', url: 'http://127.0.0.1:1', ttlMs: 3_600_000 })
  if (!lease.held) throw new Error(`${lease.name} writes already`)
  const { seq } = await store.load()
  const journal: Journal = openJournal({ store, epoch: lease.epoch, seq, now: Date.now })
  await fill(journal, jobs)
  await journal.close()
  await store.release(lease.epoch)
}

/** One list after another, while jobs are submitted and read. */
const listing = async (api: HttpPool, until: AbortSignal): Promise<number[]> => {
  const times: number[] = []
  for (let i = 0; !until.aborted; i++) {
    const began = performance.now()
    const { status, body } = await api.request('GET', `/api/v1/jobs${LISTS[i % LISTS.length]}`)
    if (status !== 200) throw new Error(`listing: ${status} ${body}`)
    times.push(performance.now() - began)
  }
  return times
}

interface Measured {
  readonly submit: number
  readonly get: number
  readonly list: number
}

const measure = async (where: CoordinatorChildOptions['store'], seconds: number): Promise<Measured> => {
  await using coordinator = await startCoordinator({ store: where, maxRegistrations: 1000 })
  using admin = await openHttpPool(coordinator.url, coordinator.key, 4)
  const wanted = { name: 'bench', tenant: TENANT, scopes: ['execute', 'read'], quota: {} }
  const made = await admin.request('POST', '/api/v1/keys', JSON.stringify(wanted))
  if (made.status !== 201) throw new Error(`a key: ${made.status} ${made.body}`)
  const { key }: NewApiKey = JSON.parse(made.body)
  using api = await openHttpPool(coordinator.url, key, 32)
  await using _workers = await openWorkers({ url: coordinator.url, api: admin, count: 24, anchors: true })
  const load = openNetworkLoad(api, { ...jobBody, policy: 'fast' })
  await load.paced(PACE, 3)
  const ended = new AbortController()
  const lists = listing(api, ended.signal)
  const { submitMs, getMs } = await load.paced(PACE, seconds)
  ended.abort()
  return { submit: quantile(submitMs, 0.99), get: quantile(getMs, 0.99), list: quantile(await lists, 0.99) }
}

/** Answers of a coordinator whose store has a million jobs that have ended, against one whose store is empty. */
export const fullStore = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const jobs = quick ? 20_000 : 1_000_000
  const seconds = quick ? 6 : 30
  const rows: Row[] = []
  for (const openStore of STORES) {
    const measured: Measured[] = []
    let called = ''
    for (const before of [0, jobs]) {
      await using place = await openStore()
      called = place.called
      if (before > 0) await fillStore(place.store, before)
      measured.push(await measure(place.store, seconds))
    }
    const [empty, full] = measured
    if (!empty || !full) throw new Error('both are measured')
    const figures = (['submit', 'get', 'list'] as const).map((what) => [
      what,
      `${round(empty[what])} -> ${round(full[what])}`,
    ])
    const worst = Math.max(full.submit / empty.submit, full.get / empty.get, full.list / empty.list)
    rows.push({
      name: `p99 of answers, empty against ${jobs} jobs that ended, ${called}`,
      figures: { ...Object.fromEntries(figures), unit: 'ms', times: round(worst) },
      goal: '<= 1.5 times',
      reached: worst <= 1.5,
    })
  }
  return rows
}
