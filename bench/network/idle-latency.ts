import { setTimeout as delay } from 'node:timers/promises'
import { figuresOf, quantile, type Row } from '../run/measure.ts'
import { STORES, startCoordinator } from './load/coordinator.ts'
import { openHttpPool } from './load/http-pool.ts'
import { openWorkers } from './load/workers.ts'
import { jobBody } from './payload.ts'

const WORKERS = 20
/** Between two jobs: the network is idle again. */
const PAUSE_MS = 20

/** One job after another on a network that has nothing else to do: how soon a worker holds its lease, and the client an answer. */
export const idleLatency = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const rows: Row[] = []
  for (const openStore of STORES) {
    await using place = await openStore()
    await using coordinator = await startCoordinator({ store: place.store })
    using api = await openHttpPool(coordinator.url, coordinator.key, 2)
    await using workers = await openWorkers({ url: coordinator.url, api, count: WORKERS, anchors: true })
    const leasedAt = new Map<string, number>()
    let woken = (): void => {}
    workers.onLease = (job) => {
      if (!leasedAt.has(job)) leasedAt.set(job, performance.now())
      woken()
    }
    const body = JSON.stringify(jobBody)
    const leased: number[] = []
    const answered: number[] = []
    const count = quick ? 200 : 1000
    for (let i = -20; i < count; i++) {
      await delay(PAUSE_MS)
      const began = performance.now()
      const { status, body: answer } = await api.request('POST', '/api/v1/jobs', body)
      const took = performance.now() - began
      if (status !== 201) throw new Error(`submitting: ${status} ${answer}`)
      const { id }: { id: string } = JSON.parse(answer)
      while (!leasedAt.has(id))
        await new Promise<void>((resolve) => {
          woken = resolve
        })
      if (i < 0) continue
      leased.push((leasedAt.get(id) ?? Number.NaN) - began)
      answered.push(took)
    }
    const p50 = quantile(leased, 0.5)
    rows.push(
      {
        name: `idle network, ${place.called}: from submission to a lease at a worker`,
        figures: { ...figuresOf(leased), unit: 'ms' },
        goal: 'p50 <= 20 ms',
        reached: p50 <= 20,
      },
      {
        name: `idle network, ${place.called}: the answer to a submission`,
        figures: { ...figuresOf(answered), unit: 'ms' },
      },
    )
  }
  return rows
}
