import type { JobRequestInput } from '@bramble/protocol'
import { figuresOf, quantile, type Row, round } from '../run/measure.ts'
import { STORES, startCoordinator } from './load/coordinator.ts'
import { openHttpPool } from './load/http-pool.ts'
import { openNetworkLoad } from './load/network-load.ts'
import { openWorkers } from './load/workers.ts'
import { jobBody } from './payload.ts'

const WORKERS = 48
const CONNECTIONS = 64
const SAMPLE_JOBS = 200

interface Policy {
  readonly called: string
  readonly anchors: boolean
  readonly body: JobRequestInput
  /** Executions that each job is verified by, at least. */
  readonly copies: number
  /** Jobs a second, a little more than what is promised. */
  readonly pace: number
}

const POLICIES: readonly Policy[] = [
  {
    called: 'fast, established nodes',
    anchors: true,
    body: { ...jobBody, policy: 'fast' },
    copies: 1,
    pace: 1050,
  },
  { called: 'n=3, k=2', anchors: false, body: { ...jobBody, redundancy: 3, consensus: 2 }, copies: 2, pace: 525 },
]

/**
 * Jobs from submission to a durable verdict: one coordinator, its workers and clients on the same cores; every request and every
 * frame over a socket, every receipt signed and verified. First at the pace that is promised, for which times of answers are
 * counted; then as fast as it goes.
 */
export const throughput = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const rows: Row[] = []
  for (const openStore of STORES)
    for (const { called, anchors, body, copies, pace } of POLICIES) {
      await using place = await openStore()
      await using coordinator = await startCoordinator({ store: place.store, maxRegistrations: 1000 })
      using api = await openHttpPool(coordinator.url, coordinator.key, CONNECTIONS)
      await using workers = await openWorkers({ url: coordinator.url, api, count: WORKERS, anchors })
      const load = openNetworkLoad(api, body)
      await load.paced(pace / 2, 4)
      await load.settle()
      const before = await coordinator.usage()
      const seconds = quick ? 5 : 60
      const { submitMs, getMs, verifiedPerSecond } = await load.paced(pace, seconds)
      const after = await coordinator.usage()
      await load.settle()
      const most = await load.flatOut(quick ? 3 : 20, 4000)
      await load.settle()
      const receipts = await load.checkReceipts(SAMPLE_JOBS)
      const executions = verifiedPerSecond * copies
      const p99 = Math.max(quantile(submitMs, 0.99), quantile(getMs, 0.99))
      const name = `${called}, ${place.called}`
      rows.push(
        {
          name: `${name}: sustained for ${seconds} s`,
          figures: {
            verifiedPerSecond: round(verifiedPerSecond, 0),
            executionsPerSecond: round(executions, 0),
            coordinatorCores: round((after.cpuMs - before.cpuMs) / (seconds * 1000)),
            refused: workers.refused,
            receiptsChecked: receipts,
          },
          goal: '>= 1,000 executions/s, all verified',
          reached: executions >= 1000,
        },
        {
          name: `${name}: answers under that load`,
          figures: {
            submit: `p50 ${figuresOf(submitMs).p50} p99 ${figuresOf(submitMs).p99}`,
            ...figuresOf(getMs),
            unit: 'ms',
          },
          goal: 'p99 <= 50 ms',
          reached: p99 <= 50,
        },
        { name: `${name}: as fast as it goes`, figures: { verifiedPerSecond: round(most.perSecond, 0) } },
      )
    }
  return rows
}
