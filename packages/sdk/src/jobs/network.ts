import {
  creditSchema,
  type Invite,
  type InviteRequest,
  inviteSchema,
  type NetworkNode,
  type NetworkStats,
  type NodeStatus,
  networkNodeSchema,
  networkStatsSchema,
  newId,
  pageSchema,
  type ReputationEntry,
  type Route,
  reputationPageSchema,
  routeSchema,
} from '@bramble/protocol'
import type { Bramble } from '../bramble.ts'
import type { CallOptions } from '../call.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import type { Transport } from '../transport.ts'
import { type NetworkInstances, networkInstances } from './network-instances.ts'
import { type RouteSource, routeSource } from './route-source.ts'

export interface NodesQuery extends ListQuery {
  readonly status?: NodeStatus | undefined
  /** `name`, or `name=value`. */
  readonly label?: string | undefined
}

export type InviteInput = Pick<InviteRequest, 'owner'> & Partial<InviteRequest>

/** Nodes, and the network as a whole. */
export interface NetworkClient {
  nodes(query?: NodesQuery): PagedList<NetworkNode>
  node(id: string, options?: CallOptions): Promise<NetworkNode>
  /** The record that a node's trust is folded from, newest first. */
  reputation(id: string, query?: ListQuery): PagedList<ReputationEntry>
  /** Nothing new is placed there; what runs goes on. Needs the scope `admin`, as all below but `stats` and `route`. */
  drain(id: string, options?: CallOptions): Promise<NetworkNode>
  resume(id: string, options?: CallOptions): Promise<NetworkNode>
  suspend(id: string, message: string, options?: CallOptions): Promise<NetworkNode>
  /** A token with which nodes join as that owner's. */
  invite(input: InviteInput, options?: CallOptions): Promise<Invite>
  /** Adds to what a tenant has; resolves with its balance. */
  credit(tenant: string, credits: number, options?: CallOptions): Promise<{ tenant: string; balance: number }>
  stats(options?: CallOptions): Promise<NetworkStats>
  /** Which node serves a user, or has an instance: its URL, and a token that its gateway takes for a while. */
  route(of: RouteOf, options?: CallOptions): Promise<Route>
  /** Placed by the network. */
  readonly instances: NetworkInstances
  /**
   * A client of the node that serves a user, or has an instance (by its id). It asks for the route when it is first used, and again
   * when the token is about to expire, or the node is gone: then its next requests, and tries of the present one where they do
   * no harm, go where the route leads now.
   */
  client(of: RouteOf): Bramble
}

export type RouteOf = { readonly user: string } | { readonly instance: string }

const PATH = '/api/v1/nodes'
const nodePage = pageSchema(networkNodeSchema)
const nodePath = (id: string): string => `${PATH}/${encodeURIComponent(id)}`

export const networkOf = (transport: Transport, follow: (route: RouteSource) => Bramble): NetworkClient => {
  const change = (id: string, verb: string, body: unknown, options: CallOptions = {}): Promise<NetworkNode> =>
    transport.json(
      {
        method: 'POST',
        path: `${nodePath(id)}/${verb}`,
        repeatable: true,
        ...(body !== undefined && { body }),
        ...options,
      },
      networkNodeSchema,
    )
  /** Made once, however often the answer is lost. */
  const create = (path: string, body: unknown, options: CallOptions) => {
    const key = newId('request')
    return { method: 'POST', path, body, repeatable: true, idempotencyKey: () => key, ...options } as const
  }
  const route: NetworkClient['route'] = (of, options = {}) =>
    transport.json({ method: 'GET', path: '/api/v1/route', query: { ...of }, ...options }, routeSchema)
  const client: NetworkClient['client'] = (of) => follow(routeSource(() => route(of)))
  return {
    nodes: ({ status, label, ...options } = {}) => pagedList(transport, PATH, nodePage, { status, label }, options),
    node: (id, options = {}) => transport.json({ method: 'GET', path: nodePath(id), ...options }, networkNodeSchema),
    reputation: (id, query = {}) => pagedList(transport, `${nodePath(id)}/reputation`, reputationPageSchema, {}, query),
    drain: (id, options) => change(id, 'drain', undefined, options),
    resume: (id, options) => change(id, 'resume', undefined, options),
    suspend: (id, message, options) => change(id, 'suspend', { message }, options),
    invite: (input, options = {}) => transport.json(create('/api/v1/invites', input, options), inviteSchema),
    credit: (tenant, credits, options = {}) =>
      transport.json(create('/api/v1/credits', { tenant, credits }, options), creditSchema),
    stats: (options = {}) => transport.json({ method: 'GET', path: '/stats', ...options }, networkStatsSchema),
    route,
    client,
    instances: networkInstances(transport, client),
  }
}
