import { json } from '@bramble/http'
import { cacheInvalidationAnswerSchema, cacheInvalidationSchema, cacheStatsSchema } from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'cache'
const path = '/api/v1/cache'

const stats = route({
  method: 'GET',
  path,
  tag,
  summary: 'What the cache of results holds for the tenant, and how often it answered',
  description: 'Entries and bytes are those in memory; the counts are since the node started.',
  scope: 'read',
  answer: { status: 200, description: 'The figures', schema: cacheStatsSchema },
  errors: [],
  handle: async ({ caller }, { engine }) => json(200, engine.cache.stats(caller.tenant)),
})

const forget = route({
  method: 'DELETE',
  path,
  tag,
  summary: 'Forget cached results: by key (an input hash), image, label, or all',
  description:
    'More than one condition: all of them hold. On this node it holds at once, also for what runs now; other nodes of the same store follow within seconds.',
  scope: 'execute',
  body: cacheInvalidationSchema,
  answer: { status: 200, description: 'How many were known here', schema: cacheInvalidationAnswerSchema },
  errors: ['store_unavailable', 'store_full', 'store_read_only'],
  handle: async ({ caller, body }, { engine }) =>
    json(200, { forgotten: await engine.cache.invalidate(caller.tenant, body) }),
})

export const cacheRoutes = [stats, forget]
