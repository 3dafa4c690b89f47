import { json, mayDo } from '@bramble/http'
import { BrambleError, usageQuerySchema, usageResponseSchema } from '@bramble/protocol'
import { route } from '../route.ts'

const DEFAULT_SPAN_MS = 30 * 24 * 3_600_000

const usage = route({
  method: 'GET',
  path: '/api/v1/usage',
  tag: 'usage',
  summary: 'What a tenant used, by key; an admin key sees every tenant',
  scope: 'read',
  query: usageQuerySchema,
  answer: { status: 200, description: 'One row for each key', schema: usageResponseSchema },
  errors: [],
  handle: async (call, { engine }) => {
    const { query, caller } = call
    const until = query.until === undefined ? new Date() : new Date(query.until)
    const since = query.since === undefined ? new Date(until.getTime() - DEFAULT_SPAN_MS) : new Date(query.since)
    if (since > until) throw new BrambleError('invalid_request', { detail: '`since` is after `until`' })
    const admin = mayDo(caller, 'admin')
    if (!admin && query.tenant !== undefined && query.tenant !== caller.tenant)
      throw new BrambleError('forbidden', { detail: 'another tenant needs the scope `admin`' })
    const tenant = query.tenant ?? (admin ? undefined : caller.tenant)
    const items = await engine.usage({ ...(tenant !== undefined && { tenant }), since, until })
    return json(200, { since: since.toISOString(), until: until.toISOString(), items })
  },
})

export const usageRoutes = [usage]
