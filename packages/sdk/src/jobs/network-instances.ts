import {
  type NetworkInstance,
  networkInstanceSchema,
  networkInstancesSchema,
  newId,
  placedInstanceSchema,
  routeSchema,
} from '@bramble/protocol'
import type { Bramble } from '../bramble.ts'
import type { CallOptions } from '../call.ts'
import { escapeText } from '../escape.ts'
import { INSTANCES_PATH, type Instance } from '../instances/instance.ts'
import { type StartOptions, specOf } from '../instances/instances.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import type { Transport } from '../transport.ts'

/** Instances that a network places on its nodes, and brings back on another one when theirs is lost. A `ref` is an id or a name. */
export interface NetworkInstances {
  /**
   * Starts one on a node of the network, and resolves when it runs. What is done with it goes to the node that has it at the
   * moment. It is not deleted with the object: `delete` does that.
   */
  start(spec?: StartOptions, options?: CallOptions): Promise<Instance>
  get(ref: string, options?: CallOptions): Promise<Instance>
  /** Newest first: where each is, and what it would come back from. */
  list(query?: ListQuery): PagedList<NetworkInstance>
  /** Keeps its files now, where other nodes can read them. */
  snapshot(ref: string, options?: CallOptions): Promise<NetworkInstance>
  delete(ref: string, options?: CallOptions): Promise<void>
}

export const networkInstances = (
  transport: Transport,
  clientOf: (of: { readonly instance: string }) => Bramble,
): NetworkInstances => {
  const path = (ref: string): string => `${INSTANCES_PATH}/${escapeText(ref)}`
  const get = async (id: string, options?: CallOptions): Promise<Instance> =>
    await clientOf({ instance: id }).instances.get(id, options)
  return {
    start: async (spec = {}, options = {}) => {
      const key = newId('request')
      const { instance } = await transport.json(
        {
          ...{ method: 'POST' as const, path: INSTANCES_PATH, body: specOf(spec), repeatable: true },
          ...{ idempotencyKey: () => key, requestTimeoutMs: SDK_LIMITS.executionGraceMs, ...options },
        },
        placedInstanceSchema,
      )
      return await get(instance.id, options)
    },
    get: async (ref, options = {}) => {
      // A token is for an instance by its id.
      const { instance = ref } = await transport.json(
        { method: 'GET', path: '/api/v1/route', query: { instance: ref }, ...options },
        routeSchema,
      )
      return await get(instance, options)
    },
    list: (query = {}) => pagedList(transport, INSTANCES_PATH, networkInstancesSchema, {}, query),
    snapshot: (ref, options = {}) =>
      transport.json(
        {
          ...{ method: 'POST' as const, path: `${path(ref)}/snapshot`, repeatable: true },
          ...{ requestTimeoutMs: SDK_LIMITS.executionGraceMs, ...options },
        },
        networkInstanceSchema,
      ),
    delete: (ref, options = {}) =>
      transport.none({
        ...{ method: 'DELETE' as const, path: path(ref), requestTimeoutMs: SDK_LIMITS.executionGraceMs },
        ...options,
      }),
  }
}
