import type { Volumes } from '@bramble/engine'
import { json, paginate } from '@bramble/http'
import {
  BrambleError,
  cacheNameSchema,
  pageQuerySchema,
  pageSchema,
  volumeParamsSchema,
  volumeRequestSchema,
  volumeSchema,
} from '@bramble/protocol'
import { z } from 'zod'
import type { GatewayContext } from '../context.ts'
import { route } from '../route.ts'

const tag = 'volumes'
const cacheParams = z.strictObject({ cache: cacheNameSchema })

const volumesOf = ({ engine }: GatewayContext): Volumes => {
  if (engine.volumes) return engine.volumes
  throw new BrambleError('unsupported', { detail: 'no runtime of this node keeps volumes' })
}

const list = route({
  method: 'GET',
  path: '/api/v1/volumes',
  tag,
  summary: 'List the tenant’s volumes, and its dependency caches that hold something',
  scope: 'read',
  query: pageQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(volumeSchema) },
  errors: ['unsupported'],
  handle: async ({ caller, query }, context) =>
    json(
      200,
      paginate(await volumesOf(context).list(caller.tenant), ({ kind, name }) => `${kind}/${name}`, query),
    ),
})

const get = route({
  method: 'GET',
  path: '/api/v1/volumes/:name',
  tag,
  summary: 'Show a volume',
  scope: 'read',
  params: volumeParamsSchema,
  answer: { status: 200, description: 'The volume', schema: volumeSchema },
  errors: ['not_found', 'unsupported'],
  handle: async ({ caller, params }, context) => json(200, await volumesOf(context).get(caller.tenant, params.name)),
})

const put = route({
  method: 'PUT',
  path: '/api/v1/volumes/:name',
  tag,
  summary: 'Make a volume, or set the size and labels of the one that is there',
  description: 'A smaller size than it holds is kept to: nothing more can be written until there is room again.',
  scope: 'execute',
  params: volumeParamsSchema,
  body: volumeRequestSchema,
  answer: { status: 200, description: 'The volume', schema: volumeSchema },
  errors: ['quota_exceeded', 'unsupported'],
  handle: async ({ caller, params, body }, context) =>
    json(200, await volumesOf(context).put(caller.tenant, params.name, body)),
})

const remove = route({
  method: 'DELETE',
  path: '/api/v1/volumes/:name',
  tag,
  summary: 'Remove a volume with everything in it',
  scope: 'execute',
  params: volumeParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found', 'conflict', 'unsupported'],
  handle: async ({ caller, params }, context) => {
    await volumesOf(context).remove(caller.tenant, params.name)
    return { status: 204 }
  },
})

const clear = route({
  method: 'DELETE',
  path: '/api/v1/caches/:cache',
  tag,
  summary: 'Forget what a dependency cache of the tenant holds',
  scope: 'execute',
  params: cacheParams,
  answer: { status: 204, description: 'It is empty' },
  errors: ['not_found', 'unsupported'],
  handle: async ({ caller, params }, context) => {
    await volumesOf(context).clearCache(caller.tenant, params.cache)
    return { status: 204 }
  },
})

const seed = route({
  method: 'POST',
  path: '/api/v1/caches/:cache/seed',
  tag,
  summary: 'Let every tenant read what the caller’s dependency cache holds now',
  description: 'They see it below their own, and cannot change it. Sandboxes that run go on with what they see.',
  scope: 'admin',
  params: cacheParams,
  answer: { status: 204, description: 'It is the seed' },
  errors: ['not_found', 'unsupported'],
  handle: async ({ caller, params }, context) => {
    await volumesOf(context).seed(caller.tenant, params.cache)
    return { status: 204 }
  },
})

export const volumeRoutes = [list, get, put, remove, clear, seed]
