import { json, paginate } from '@bramble/http'
import {
  creditRequestSchema,
  creditSchema,
  keyParamsSchema,
  keyRequestSchema,
  keySchema,
  newKeySchema,
  pageQuerySchema,
  pageSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'keys'
const path = '/api/v1/keys'

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List the API keys of the network, without the keys themselves',
  scope: 'admin',
  query: pageQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(keySchema) },
  errors: [],
  handle: async ({ query }, { keys }) =>
    json(
      200,
      paginate(await keys.list(), (key) => key.id, query),
    ),
})

const create = route({
  method: 'POST',
  path,
  tag,
  summary: 'Make an API key, good at every coordinator; only this answer shows it',
  scope: 'admin',
  body: keyRequestSchema,
  answer: { status: 201, description: 'The key', schema: newKeySchema },
  errors: ['not_leader'],
  idempotent: true,
  handle: async ({ body }, { keys }) => json(201, await keys.create(body)),
})

const remove = route({
  method: 'DELETE',
  path: `${path}/:id`,
  tag,
  summary: 'Delete an API key: here at once, elsewhere within seconds; the last admin key stays',
  scope: 'admin',
  params: keyParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found', 'conflict', 'not_leader'],
  handle: async ({ params: { id } }, { keys }) => {
    await keys.remove(id)
    return { status: 204 }
  },
})

const credit = route({
  method: 'POST',
  path: '/api/v1/credits',
  tag,
  summary: 'Give a tenant credits',
  scope: 'admin',
  body: creditRequestSchema,
  answer: { status: 201, description: 'What it has now', schema: creditSchema },
  errors: ['not_leader'],
  idempotent: true,
  handle: async ({ body: { tenant, credits } }, { network }) => json(201, await network.credit(tenant, credits)),
})

export const keyRoutes = [list, create, remove, credit]
