import type { Engine } from '@bramble/engine'
import type { ExecutionResult } from '@bramble/protocol'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

/** What the gateway counts, and what it asks the engine at each scrape. */
export interface Metrics {
  request(labels: { method: string; route: string; status: number; seconds: number }): void
  execution(result: ExecutionResult): void
  text(): Promise<string>
}

const REQUEST_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120]
const START_SECONDS = [0.0005, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 5]

/** The metrics of the process (CPU, memory, event loop, GC) are the same whichever gateway in it is asked. */
let processRegistry: Registry | undefined
const processMetrics = (): Registry => {
  if (!processRegistry) {
    processRegistry = new Registry()
    collectDefaultMetrics({ register: processRegistry })
  }
  return processRegistry
}

export const gatewayMetrics = (engine: Engine, version: string): Metrics => {
  const registry = new Registry()
  const registers = [registry]
  const requests = new Counter({
    name: 'http_requests_total',
    help: 'Requests by method, route and status',
    labelNames: ['method', 'route', 'status'],
    registers,
  })
  const durations = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from the headers of a request to the end of its answer',
    labelNames: ['method', 'route', 'status'],
    buckets: REQUEST_SECONDS,
    registers,
  })
  const executions = new Counter({
    name: 'executions_total',
    help: 'Executions that ended, by status',
    labelNames: ['status', 'runtime'],
    registers,
  })
  const phase = (name: string, help: string) =>
    new Histogram({ name, help, labelNames: ['runtime'], buckets: START_SECONDS, registers })
  const starts = phase('execution_start_seconds', 'Getting a sandbox for an execution, from the pool or made')
  const waits = phase('execution_queued_seconds', 'Waiting for a place on the node')
  new Gauge({ name: 'bramble_info', help: 'The version that runs', labelNames: ['version'], registers }).set(
    { version },
    1,
  )
  engineMetrics(engine, registers)

  return {
    request: ({ method, route, status, seconds }) => {
      const labels = { method, route, status }
      requests.inc(labels)
      durations.observe(labels, seconds)
    },
    execution: ({ status, runtime, timings }) => {
      executions.inc({ status, runtime })
      starts.observe({ runtime }, timings.startMs / 1000)
      waits.observe({ runtime }, timings.queuedMs / 1000)
    },
    text: async () => `${await registry.metrics()}${await processMetrics().metrics()}`,
  }
}

/** Read from the engine when someone asks, so that they cost nothing in between. */
const engineMetrics = (engine: Engine, registers: Registry[]): void => {
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        this.set(read())
      },
    })
  }
  gauge('executions_running', 'Executions that run now', () => engine.status().running)
  gauge('queue_length', 'Executions that wait for a place', () => engine.status().queued)
  gauge('sandboxes_pooled', 'Sandboxes that wait in pools', () => engine.status().pooled)
  gauge(
    'reserved_memory_bytes',
    'Memory that sandboxes may use by their limits',
    () => engine.status().reservedMemoryMb * 1024 * 1024,
  )
  const labelNames = ['image', 'runtime'] as const
  const perPool = (
    kind: typeof Gauge | typeof Counter,
    name: string,
    help: string,
    read: (pool: PoolRow) => number,
  ) => {
    new kind({
      name,
      help,
      labelNames,
      registers,
      collect() {
        this.reset()
        for (const pool of engine.pools.list()) this.inc({ image: pool.image, runtime: pool.runtime }, read(pool))
      },
    })
  }
  perPool(Gauge, 'pool_ready', 'Sandboxes ready in a pool', (pool) => pool.ready)
  perPool(Gauge, 'pool_starting', 'Sandboxes being made for a pool', (pool) => pool.starting)
  perPool(Gauge, 'pool_target', 'Sandboxes a pool aims at', (pool) => pool.target)
  perPool(Counter, 'pool_hits_total', 'Executions that found a sandbox ready', (pool) => pool.hits)
  perPool(Counter, 'pool_misses_total', 'Executions that had to wait for theirs', (pool) => pool.misses)
}

type PoolRow = ReturnType<Engine['pools']['list']>[number]
