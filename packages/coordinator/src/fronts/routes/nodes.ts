import { json } from '@bramble/http'
import {
  BrambleError,
  heartbeatAnswerSchema,
  heartbeatSchema,
  inviteRequestSchema,
  inviteSchema,
  networkNodeSchema,
  nodeParamsSchema,
  nodeRegistrationSchema,
  nodesQuerySchema,
  pageSchema,
  reputationPageSchema,
  reputationQuerySchema,
  suspendSchema,
} from '@bramble/protocol'
import { subnetOf } from '../address.ts'
import { REGISTER_PATH } from '../node-requests.ts'
import { requireSigner, route } from '../route.ts'

const tag = 'nodes'
const path = '/api/v1/nodes'
const one = `${path}/:id`
const params = nodeParamsSchema

const register = route({
  method: 'POST',
  path: REGISTER_PATH,
  tag,
  summary: 'A node joins, by an invite; or says anew what it has',
  scope: 'node',
  body: nodeRegistrationSchema,
  answer: { status: 200, description: 'The node', schema: networkNodeSchema },
  errors: ['forbidden', 'node_suspended', 'not_leader'],
  handle: async (call, context) => {
    const { publicKey } = requireSigner(context, call.request, call.body.node)
    if (publicKey !== call.body.publicKey)
      throw new BrambleError('signature_invalid', { detail: '`publicKey` is not the key that signed it' })
    const subnet = subnetOf(context.addressOf(call.request.raw))
    return json(200, await context.network.nodes.register({ registration: call.body, subnet }))
  },
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List nodes',
  scope: 'read',
  query: nodesQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(networkNodeSchema) },
  errors: ['not_leader'],
  handle: async ({ query }, { network }) => json(200, await network.nodes.list(query)),
})

const get = route({
  method: 'GET',
  path: one,
  tag,
  summary: 'One node: what it has, how it is trusted',
  scope: 'read',
  orNode: true,
  params,
  answer: { status: 200, description: 'The node', schema: networkNodeSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id } }, { network }) => json(200, await network.nodes.get(id)),
})

const reputation = route({
  method: 'GET',
  path: `${one}/reputation`,
  tag,
  summary: 'The record that a node’s reputation is folded from, newest first',
  scope: 'read',
  orNode: true,
  params,
  query: reputationQuerySchema,
  answer: { status: 200, description: 'A page', schema: reputationPageSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, query: { limit, cursor } }, { network }) => {
    await network.nodes.get(id)
    const items = await network.nodes.reputation(id, { limit, ...(cursor !== undefined && { before: cursor }) })
    const last = items.at(-1)
    return json(200, { items, nextCursor: last && items.length === limit ? String(last.seq) : null })
  },
})

const heartbeat = route({
  method: 'POST',
  path: `${one}/heartbeat`,
  tag,
  summary: 'A worker without a stream is alive; its answer says what it is to go on with',
  scope: 'node',
  params,
  body: heartbeatSchema,
  bodyOptional: true,
  answer: { status: 200, description: 'What to go on with', schema: heartbeatAnswerSchema },
  errors: ['not_found', 'node_suspended', 'not_leader'],
  handle: async ({ params: { id }, body: { running, report }, request }, context) => {
    const { node } = requireSigner(context, request, id)
    const { keep } = await context.network.nodes.heartbeat(node, running, report)
    return json(200, { network: context.networkId, publicKey: context.identity.publicKey, keep })
  },
})

const drain = route({
  method: 'POST',
  path: `${one}/drain`,
  tag,
  summary: 'Nothing new is placed on the node; what runs goes on',
  scope: 'admin',
  orNode: true,
  params,
  answer: { status: 200, description: 'The node', schema: networkNodeSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, request }, context) => {
    if (context.nodes.signerOf(request)) requireSigner(context, request, id)
    return json(200, await context.network.nodes.drain(id))
  },
})

const resume = route({
  method: 'POST',
  path: `${one}/resume`,
  tag,
  summary: 'Takes a drained or suspended node back',
  scope: 'admin',
  params,
  answer: { status: 200, description: 'The node', schema: networkNodeSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id } }, { network }) => json(200, await network.nodes.resume(id)),
})

const suspend = route({
  method: 'POST',
  path: `${one}/suspend`,
  tag,
  summary: 'Shuts a node out; what it runs is placed elsewhere',
  scope: 'admin',
  params,
  body: suspendSchema,
  answer: { status: 200, description: 'The node', schema: networkNodeSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, body: { message } }, { network }) =>
    json(200, await network.nodes.suspend(id, message)),
})

const invite = route({
  method: 'POST',
  path: '/api/v1/invites',
  tag,
  summary: 'Lets nodes join as somebody’s; only this answer shows the token',
  scope: 'admin',
  body: inviteRequestSchema,
  answer: { status: 201, description: 'The invite', schema: inviteSchema },
  errors: ['not_leader'],
  idempotent: true,
  handle: async ({ body }, { network }) => json(201, await network.nodes.invite(body)),
})

export const nodeRoutes = [register, list, get, reputation, heartbeat, drain, resume, suspend, invite]
