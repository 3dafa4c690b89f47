import { json, paginate } from '@bramble/http'
import {
  keyParamsSchema,
  keyRequestSchema,
  keySchema,
  newKeySchema,
  pageQuerySchema,
  pageSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'keys'

const list = route({
  method: 'GET',
  path: '/api/v1/keys',
  tag,
  summary: 'List the API keys of this node, without the keys themselves',
  scope: 'admin',
  query: pageQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(keySchema) },
  errors: [],
  handle: async (call, { keys }) =>
    json(
      200,
      paginate(keys.list(), (key) => key.id, call.query),
    ),
})

const create = route({
  method: 'POST',
  path: '/api/v1/keys',
  tag,
  summary: 'Make an API key; only this answer shows it',
  scope: 'admin',
  body: keyRequestSchema,
  answer: { status: 201, description: 'The key', schema: newKeySchema },
  errors: [],
  idempotent: true,
  handle: async (call, { keys }) => json(201, await keys.create(call.body)),
})

const remove = route({
  method: 'DELETE',
  path: '/api/v1/keys/:id',
  tag,
  summary: 'Delete an API key, at once; the last admin key stays',
  scope: 'admin',
  params: keyParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found', 'conflict'],
  handle: async (call, { keys }) => {
    await keys.remove(call.params.id)
    return { status: 204 }
  },
})

export const keyRoutes = [list, create, remove]
