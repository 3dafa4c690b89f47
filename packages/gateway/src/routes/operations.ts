import { json } from '@bramble/http'
import { BrambleError, healthSchema, readySchema } from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'operations'

const health = route({
  method: 'GET',
  path: '/health',
  tag,
  summary: 'Whether the node works: `degraded` when no runtime does',
  scope: 'public',
  answer: { status: 200, description: 'Its state', schema: healthSchema },
  errors: [],
  handle: async (_call, { engine, version, startedAt }) => {
    const { runtimes } = engine.status()
    return json(200, {
      status: runtimes.some((runtime) => runtime.available) ? 'ok' : 'degraded',
      version,
      uptimeMs: Math.round(performance.now() - startedAt),
      runtimes,
    })
  },
})

const ready = route({
  method: 'GET',
  path: '/ready',
  tag,
  summary: 'Whether the node takes work now',
  scope: 'public',
  answer: { status: 200, description: 'It does', schema: readySchema },
  errors: ['shutting_down'],
  handle: async (_call, { shutdown }) => {
    if (shutdown.closing) throw new BrambleError('shutting_down', { detail: 'what runs is being finished' })
    return json(200, { status: 'ready' })
  },
})

const metrics = route({
  method: 'GET',
  path: '/metrics',
  tag,
  summary: 'Metrics in the text format of Prometheus',
  scope: 'metrics',
  answer: { status: 200, description: 'Metrics', mediaType: 'text/plain; version=0.0.4; charset=utf-8' },
  errors: [],
  handle: async (_call, context) => ({ status: 200, text: await context.metrics.text(context.engine, context.live) }),
})

export const operationRoutes = [health, ready, metrics]
