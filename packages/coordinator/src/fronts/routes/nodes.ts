import { type Caller, json } from '@bramble/http'
import {
  BrambleError,
  heartbeatAnswerSchema,
  heartbeatSchema,
  inviteRequestSchema,
  inviteSchema,
  type NetworkNode,
  type NodeId,
  networkNodeSchema,
  nodeParamsSchema,
  nodeRegistrationSchema,
  nodesQuerySchema,
  pageSchema,
  type ReputationEntry,
  reputationPageSchema,
  reputationQuerySchema,
  suspendSchema,
} from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import { subnetOf } from '../address.ts'
import type { FrontContext } from '../front-context.ts'
import { REGISTER_PATH } from '../node-requests.ts'
import { requireSigner, route } from '../route.ts'

const tag = 'nodes'
const path = '/api/v1/nodes'
const one = `${path}/:id`
const params = nodeParamsSchema

/**
 * Why a node was faulted, and in which jobs, is for its owner and for administrators: jobs are their tenants', and what a node
 * says of one that it could not run may hold what only its tenant should read.
 */
const isPrivy = (
  { request, caller }: { request: FastifyRequest; caller: Caller },
  { nodes }: FrontContext,
  id: NodeId,
) => {
  const signer = nodes.signerOf(request)
  return signer ? signer.node === id : caller.scopes.includes('admin')
}

const shown = (node: NetworkNode, privy: boolean): NetworkNode => {
  const { message: _message, ...open } = node
  return privy ? node : open
}

const shownEntry = (entry: ReputationEntry, privy: boolean): ReputationEntry => {
  const { message: _message, job: _job, execution: _execution, ...open } = entry
  return privy ? entry : open
}

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
  handle: async (call, context) => {
    const page = await context.network.nodes.list(call.query)
    return json(200, { ...page, items: page.items.map((node) => shown(node, isPrivy(call, context, node.id))) })
  },
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
  handle: async (call, context) => {
    const { id } = call.params
    return json(200, shown(await context.network.nodes.get(id), isPrivy(call, context, id)))
  },
})

const reputation = route({
  method: 'GET',
  path: `${one}/reputation`,
  tag,
  summary: 'The record that a node’s reputation is folded from, newest first',
  description: 'Jobs and reasons are for the node itself and for administrators.',
  scope: 'read',
  orNode: true,
  params,
  query: reputationQuerySchema,
  answer: { status: 200, description: 'A page', schema: reputationPageSchema },
  errors: ['not_found', 'not_leader'],
  handle: async (call, context) => {
    const { id } = call.params
    const { limit, cursor } = call.query
    await context.network.nodes.get(id)
    const entries = await context.network.nodes.reputation(id, {
      limit,
      ...(cursor !== undefined && { before: cursor }),
    })
    const last = entries.at(-1)
    const privy = isPrivy(call, context, id)
    const items = entries.map((entry) => shownEntry(entry, privy))
    return json(200, { items, nextCursor: last && entries.length === limit ? String(last.seq) : null })
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
