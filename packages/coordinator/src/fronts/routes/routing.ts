import { type Caller, json } from '@bramble/http'
import {
  instanceParamsSchema,
  instanceSpecSchema,
  networkInstanceSchema,
  networkInstancesSchema,
  pageQuerySchema,
  placedInstanceSchema,
  routeQuerySchema,
  routeSchema,
} from '@bramble/protocol'
import type { RouteCaller } from '../../network/network.ts'
import { route } from '../route.ts'

const tag = 'routing'
const instances = '/api/v1/instances'

const find = route({
  method: 'GET',
  path: '/api/v1/route',
  tag,
  summary: 'Which node serves this user or instance, and a token for its gateway',
  description: 'A user stays with its node while that lives; an instance moves only when its node is gone or drained.',
  scope: 'read',
  query: routeQuerySchema,
  answer: { status: 200, description: 'Where to go', schema: routeSchema },
  errors: ['not_found', 'no_node', 'not_leader'],
  handle: async ({ query, caller }, { network }) =>
    json(
      200,
      'user' in query
        ? await network.routing.user(query.user, callerOf(caller))
        : await network.routing.instance(query.instance, callerOf(caller)),
    ),
})

const start = route({
  method: 'POST',
  path: instances,
  tag,
  summary: 'Start an instance on a node of the network',
  description:
    'Answers when it runs. Its files are kept in the store that the nodes share, now and then; it comes back from there on another node when its own is lost.',
  scope: 'execute',
  body: instanceSpecSchema,
  answer: { status: 201, description: 'The instance, and where it is', schema: placedInstanceSchema },
  errors: ['conflict', 'quota_exceeded', 'queue_full', 'image_not_found', 'unsupported', 'no_node', 'not_leader'],
  idempotent: true,
  handle: async ({ body, caller }, { network }) =>
    json(201, await network.routing.startInstance(body, callerOf(caller))),
})

const list = route({
  method: 'GET',
  path: instances,
  tag,
  summary: 'The instances that the network has placed, newest first',
  scope: 'read',
  query: pageQuerySchema,
  answer: {
    status: 200,
    description: 'Where each is, and what it would come back from',
    schema: networkInstancesSchema,
  },
  errors: ['not_leader'],
  handle: async ({ query: { limit, cursor }, caller: { tenant } }, { network }) =>
    json(200, await network.routing.instances({ limit, ...(cursor !== undefined && { cursor }) }, tenant)),
})

const snapshot = route({
  method: 'POST',
  path: `${instances}/:id/snapshot`,
  tag,
  summary: 'Keep the files of an instance now',
  description: 'Answers when they are in the store that the nodes share.',
  scope: 'execute',
  params: instanceParamsSchema,
  answer: { status: 200, description: 'What it comes back from', schema: networkInstanceSchema },
  errors: ['not_found', 'conflict', 'no_node', 'not_leader'],
  handle: async ({ params, caller: { tenant } }, { network }) =>
    json(200, await network.routing.snapshotInstance(params.id, tenant)),
})

const remove = route({
  method: 'DELETE',
  path: `${instances}/:id`,
  tag,
  summary: 'Delete an instance: its processes and its files',
  description: 'A node that is away deletes it when it comes back.',
  scope: 'execute',
  params: instanceParamsSchema,
  answer: { status: 204, description: 'It is the network’s no more' },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params, caller: { tenant } }, { network }) => {
    await network.routing.removeInstance(params.id, tenant)
    return { status: 204, text: '' }
  },
})

const callerOf = ({ tenant, scopes }: Caller): RouteCaller => ({ tenant, scopes })

export const routingRoutes = [find, start, list, snapshot, remove]
