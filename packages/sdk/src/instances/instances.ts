import { type InstanceSpecInput, type InstanceStatus, instanceSchema, newId, pageSchema } from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import { escapeText } from '../escape.ts'
import { SDK_LIMITS } from '../limits.ts'
import { type ListQuery, type PagedList, pagedList } from '../page.ts'
import { changeInstance, INSTANCES_PATH, Instance, type InstanceContext, ownInstance } from './instance.ts'

type Resources = NonNullable<InstanceSpecInput['resources']>

/** Everything of a spec, its resources also by themselves: `{ image: 'node', memoryMb: 256, ttlMs: 600_000 }`. */
export type StartOptions = InstanceSpecInput & Resources

export interface InstancesQuery extends ListQuery {
  readonly status?: InstanceStatus | undefined
  /** `name=value`, or `name` for any value. */
  readonly label?: string | undefined
}

/** What every client of Bramble has for instances. */
export interface InstanceManager {
  /** Makes an instance by its spec, and resolves when it runs; or starts one again that was stopped, by its id or name. */
  start(what?: StartOptions | string, options?: CallOptions): Promise<Instance>
  stop(ref: string, options?: CallOptions): Promise<Instance>
  /** With `snapshot` its state is saved, too, so that it outlives the host. */
  pause(ref: string, options?: CallOptions & { readonly snapshot?: boolean | undefined }): Promise<Instance>
  resume(ref: string, options?: CallOptions): Promise<Instance>
}

/** Sandboxes that outlive one command. A `ref` is an id or a name of the tenant's. */
export interface Instances extends InstanceManager {
  get(ref: string, options?: CallOptions): Promise<Instance>
  list(query?: InstancesQuery): PagedList<Instance>
  /** It expires so long from now; `null`: never. */
  extend(ref: string, ttlMs: number | null, options?: CallOptions): Promise<Instance>
  delete(ref: string, options?: CallOptions): Promise<void>
}

const instancePage = pageSchema(instanceSchema)

export const instances = (context: InstanceContext): Instances => {
  const { transport } = context
  const kept = (record: ReturnType<(typeof instanceSchema)['parse']>): Instance =>
    new Instance(context, record, { deletes: false })
  const create = async (options: StartOptions, call: CallOptions): Promise<Instance> => {
    const key = newId('request')
    const request = { method: 'POST', path: INSTANCES_PATH, repeatable: true, idempotencyKey: () => key } as const
    const requestTimeoutMs = SDK_LIMITS.executionGraceMs
    const record = await transport.json(
      { ...request, body: specOf(options), requestTimeoutMs, ...call },
      instanceSchema,
    )
    return ownInstance(context)(record)
  }
  return {
    start: async (what = {}, options = {}) =>
      typeof what === 'string'
        ? kept(await changeInstance(context, what, 'start', undefined, options))
        : create(what, options),
    stop: async (ref, options) => kept(await changeInstance(context, ref, 'stop', undefined, options)),
    pause: async (ref, { snapshot, ...options } = {}) =>
      kept(await changeInstance(context, ref, 'pause', snapshot === undefined ? undefined : { snapshot }, options)),
    resume: async (ref, options) => kept(await changeInstance(context, ref, 'resume', undefined, options)),
    extend: async (ref, ttlMs, options) => kept(await changeInstance(context, ref, 'extend', { ttlMs }, options)),
    get: async (ref, options = {}) =>
      kept(
        await transport.json(
          { method: 'GET', path: `${INSTANCES_PATH}/${escapeText(ref)}`, ...options },
          instanceSchema,
        ),
      ),
    list: (query = {}) => {
      const { status, label, ...options } = query
      return mapped(pagedList(transport, INSTANCES_PATH, instancePage, { status, label }, options), kept)
    },
    delete: (ref, options = {}) =>
      transport.none({
        method: 'DELETE',
        path: `${INSTANCES_PATH}/${escapeText(ref)}`,
        requestTimeoutMs: SDK_LIMITS.executionGraceMs,
        ...options,
      }),
  }
}

/** The spec that options stand for. */
export const specOf = ({ cpus, memoryMb, diskMb, pids, gpus, timeoutMs, maxOutputBytes, ...spec }: StartOptions) => ({
  ...spec,
  // What is undefined is not sent, so the node's defaults stand.
  resources: { ...spec.resources, ...defined({ cpus, memoryMb, diskMb, pids, gpus, timeoutMs, maxOutputBytes }) },
})

const defined = (resources: Resources): Resources =>
  Object.fromEntries(Object.entries(resources).filter(([, value]) => value !== undefined))

const mapped = <A, B>(list: PagedList<A>, change: (item: A) => B): PagedList<B> => {
  async function* pages() {
    for await (const { items, nextCursor } of list.pages()) yield { items: items.map(change), nextCursor }
  }
  async function* items() {
    for await (const item of list) yield change(item)
  }
  return { pages, [Symbol.asyncIterator]: items, all: () => Array.fromAsync(items()) }
}
