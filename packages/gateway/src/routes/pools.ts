import { json } from '@bramble/http'
import { poolSchema, prewarmSchema } from '@bramble/protocol'
import { z } from 'zod'
import { route } from '../route.ts'

const tag = 'pools'

const list = route({
  method: 'GET',
  path: '/api/v1/pools',
  tag,
  summary: 'List the warm pools, which tell what all tenants ask for',
  scope: 'admin',
  answer: {
    status: 200,
    description: 'All of them',
    schema: z.object({ items: z.array(poolSchema), nextCursor: z.null() }),
  },
  errors: [],
  handle: async (_call, { engine }) => json(200, { items: engine.pools.list(), nextCursor: null }),
})

const prewarm = route({
  method: 'POST',
  path: '/api/v1/prewarm',
  tag,
  summary: 'Keep at least this many sandboxes ready, and answer when they are',
  scope: 'admin',
  body: prewarmSchema,
  answer: { status: 200, description: 'The pool', schema: poolSchema },
  errors: ['image_not_found', 'unsupported', 'sandbox_failed'],
  handle: async (call, { engine }) => json(200, await engine.pools.prewarm(call.body, { signal: call.signal })),
})

export const poolRoutes = [list, prewarm]
