import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

/** What every server counts of its requests; a server adds its own metrics to the registry. */
export interface HttpMetrics {
  readonly registry: Registry
  request(labels: { method: string; route: string; status: number; seconds: number }): void
  /** All of the registry, and those of the process, in the text format of Prometheus. */
  text(): Promise<string>
}

const REQUEST_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120]

/** The metrics of the process (CPU, memory, event loop, GC) are the same whichever server in it is asked. */
let processRegistry: Registry | undefined
const processMetrics = (): Registry => {
  if (!processRegistry) {
    processRegistry = new Registry()
    collectDefaultMetrics({ register: processRegistry })
  }
  return processRegistry
}

export const createHttpMetrics = ({ version }: { version: string }): HttpMetrics => {
  const registry = new Registry()
  const registers = [registry]
  const labelNames = ['method', 'route', 'status'] as const
  const requests = new Counter({
    name: 'http_requests_total',
    help: 'Requests by method, route and status',
    labelNames,
    registers,
  })
  const durations = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from the headers of a request to the end of its answer',
    labelNames,
    buckets: REQUEST_SECONDS,
    registers,
  })
  const info = new Gauge({ name: 'bramble_info', help: 'The version that runs', labelNames: ['version'], registers })
  info.set({ version }, 1)
  processMetrics()
  return {
    registry,
    request: ({ method, route, status, seconds }) => {
      const labels = { method, route, status }
      requests.inc(labels)
      durations.observe(labels, seconds)
    },
    text: async () => `${await registry.metrics()}${await processMetrics().metrics()}`,
  }
}
