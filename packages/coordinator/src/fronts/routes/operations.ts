import { json } from '@bramble/http'
import { BrambleError, networkHealthSchema, networkStatsSchema, readySchema } from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'operations'

const stats = route({
  method: 'GET',
  path: '/stats',
  tag,
  summary: 'The network in numbers, and its public key',
  scope: 'read',
  answer: { status: 200, description: 'Numbers', schema: networkStatsSchema },
  errors: ['not_leader'],
  handle: async (_call, { network }) => json(200, await network.stats()),
})

const health = route({
  method: 'GET',
  path: '/health',
  tag,
  summary: 'Whether this coordinator works: `degraded` while nobody writes',
  scope: 'public',
  answer: { status: 200, description: 'Its state', schema: networkHealthSchema },
  errors: [],
  handle: async (_call, { writerName, version, startedAt, sessionCount }) => {
    const writer = await writerName()
    return json(200, {
      status: writer !== undefined ? 'ok' : 'degraded',
      version,
      uptimeMs: Math.round(performance.now() - startedAt),
      ...(writer !== undefined && { writer }),
      sessions: sessionCount(),
    })
  },
})

const ready = route({
  method: 'GET',
  path: '/ready',
  tag,
  summary: 'Whether this coordinator takes requests now',
  scope: 'public',
  answer: { status: 200, description: 'It does', schema: readySchema },
  errors: ['shutting_down'],
  handle: async (_call, { shutdown }) => {
    if (shutdown.closing) throw new BrambleError('shutting_down', { detail: 'what is under way is being finished' })
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
  handle: async (_call, context) => ({ status: 200, text: await context.metricsText() }),
})

export const operationRoutes = [stats, health, ready, metrics]
