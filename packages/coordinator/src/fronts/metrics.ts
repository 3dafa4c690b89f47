import { createHttpMetrics, type HttpMetrics } from '@bramble/http'
import type { NetworkStats } from '@bramble/protocol'
import { Counter, Gauge, Histogram } from 'prom-client'
import type { Batch, Store } from '../store/store.ts'

/** What a coordinator counts. It is made before the store is given to the writer, so that writes are timed. */
export interface FrontMetrics extends Pick<HttpMetrics, 'request'> {
  /** One write of the journal. */
  flushed(batch: Pick<Batch, 'log'>, seconds: number): void
  /** An execution whose result was taken: how long its node says that it ran. */
  executed(seconds: number): void
  /** Frames of sessions, both ways. */
  frames(direction: 'in' | 'out', bytes: number): void
  /** A worker's stream ended: why. */
  sessionEnded(reason: string): void
  /** In the text format of Prometheus. Without `stats` (nobody writes), the network is as it was last. */
  text(stats: NetworkStats | undefined, sessions: number): Promise<string>
}

const EXECUTION_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600]
const FLUSH_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5]
const FLUSH_RECORDS = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 5000]

export const createFrontMetrics = (options: { version: string }): FrontMetrics => {
  const http = createHttpMetrics(options)
  const registers = [http.registry]
  const count = <const Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Counter({ name, help, labelNames, registers })
  const time = (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers })
  const executions = time(
    'job_execution_duration_seconds',
    'Running one execution, by its receipt; of results that came by this coordinator',
    EXECUTION_SECONDS,
  )
  const flushes = time('bramble_journal_flush_seconds', 'Writing one batch of the journal, until it is durable', [
    ...FLUSH_SECONDS,
  ])
  const records = time('bramble_journal_batch_records', 'Records of one batch of the journal', FLUSH_RECORDS)
  const frames = count('bramble_session_frames_total', 'Frames of workers’ streams', 'direction')
  const frameBytes = count('bramble_session_bytes_total', 'Characters of those frames', 'direction')
  const ended = count('bramble_sessions_ended_total', 'Workers’ streams that ended, by why', 'reason')
  const network = networkGauges(registers)

  return {
    request: http.request,
    flushed: ({ log }, seconds) => {
      flushes.observe(seconds)
      records.observe(log.length)
    },
    executed: (seconds) => executions.observe(seconds),
    frames: (direction, bytes) => {
      frames.inc({ direction })
      frameBytes.inc({ direction }, bytes)
    },
    sessionEnded: (reason) => ended.inc({ reason }),
    text: (stats, sessions) => {
      network(stats, sessions)
      return http.text()
    },
  }
}

/** What the network is, asked when somebody looks. Every coordinator shows the same; `max` over them is the network's. */
const networkGauges = (registers: HttpMetrics['registry'][]) => {
  const gauge = <const Label extends string>(name: string, help: string, ...labelNames: Label[]) =>
    new Gauge({ name, help, labelNames, registers })
  const up = gauge('bramble_network_up', 'Whether a coordinator writes, and answers this one')
  const jobs = gauge('jobs_total', 'Jobs by status', 'status')
  const nodes = gauge('nodes_total', 'Nodes by status', 'status')
  const reached = gauge('verification_consensus_reached', 'Jobs that ended with a verdict')
  const failed = gauge('bramble_verification_consensus_failed', 'Jobs that ended without consensus')
  const waiting = gauge('bramble_executions_waiting', 'Executions that no node has yet')
  const leases = gauge('bramble_leases', 'Executions that nodes have')
  const copies = gauge('bramble_copies_per_job', 'Executions placed for each job that ended, since the writer began')
  const verified = gauge('bramble_verified_per_second', 'Jobs verified a second, since the writer began')
  const credits = gauge('bramble_credits', 'Credits issued, held by open jobs, and earned', 'kind')
  const open = gauge('bramble_sessions', 'Workers whose streams end at this coordinator')
  return (stats: NetworkStats | undefined, sessions: number): void => {
    open.set(sessions)
    up.set(stats ? 1 : 0)
    if (!stats) return
    jobs.reset()
    nodes.reset()
    for (const [status, number] of Object.entries(stats.jobs)) jobs.set({ status }, number)
    for (const [status, number] of Object.entries(stats.nodes)) nodes.set({ status }, number)
    reached.set(stats.jobs.completed ?? 0)
    failed.set(stats.jobs.no_consensus ?? 0)
    waiting.set(stats.executions.waiting)
    leases.set(stats.executions.running)
    copies.set(stats.copiesPerJob)
    verified.set(stats.verifiedPerSecond)
    for (const [kind, amount] of Object.entries(stats.credits)) credits.set({ kind }, amount)
  }
}

/** The same store, with its writes timed. */
export const timedStore = (store: Store, metrics: Pick<FrontMetrics, 'flushed'>): Store => {
  const timed: Store = Object.create(store)
  timed.append = async (epoch, batch) => {
    const began = performance.now()
    await store.append(epoch, batch)
    metrics.flushed(batch, (performance.now() - began) / 1000)
  }
  return timed
}
