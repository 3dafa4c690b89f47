import { BrambleError } from '@bramble/protocol'
import type { Network } from '../network/network.ts'

/** The methods of a `Network` by name, and a `Network` by one function that calls them: what a link and a cluster are made of. */

type MethodsOf<G extends 'jobs' | 'nodes' | 'routing'> = `${G}.${keyof Network[G] & string}`
export type Method =
  | Exclude<MethodsOf<'jobs'>, 'jobs.events'>
  | MethodsOf<'nodes'>
  | MethodsOf<'routing'>
  | 'takeNonce'
  | 'putDocument'
  | 'credit'
  | 'stats'

type Repeatable = boolean | ((args: readonly unknown[]) => boolean)

/**
 * Whether a call whose outcome is not known may be made again: it reads, or does the same thing twice, or the network knows it
 * again. A nonce that the writer which died had taken is new to the next one.
 */
const METHODS: Readonly<Record<Method, Repeatable>> = {
  'jobs.submit': ([command]) => (command as { idempotency?: unknown }).idempotency !== undefined,
  'jobs.get': true,
  'jobs.list': true,
  'jobs.cancel': true,
  'jobs.executions': true,
  'jobs.evidence': true,
  'nodes.register': true,
  'nodes.get': true,
  'nodes.list': true,
  'nodes.reputation': true,
  'nodes.drain': true,
  'nodes.resume': true,
  'nodes.suspend': true,
  'nodes.invite': false,
  'nodes.publicKey': true,
  'nodes.heartbeat': true,
  'nodes.poll': true,
  'nodes.commit': true,
  'nodes.renew': true,
  'routing.user': true,
  'routing.instance': true,
  'routing.startInstance': false,
  'routing.instances': true,
  'routing.snapshotInstance': false,
  'routing.removeInstance': false,
  takeNonce: true,
  putDocument: true,
  credit: false,
  stats: true,
}

export const isMethod = (name: unknown): name is Method => typeof name === 'string' && Object.hasOwn(METHODS, name)

export const mayRepeat = (method: Method, args: readonly unknown[]): boolean => {
  const repeatable = METHODS[method]
  return typeof repeatable === 'function' ? repeatable(args) : repeatable
}

/** Calls it there. The signal goes where that method takes one. */
export const invoke = async (
  network: Network,
  method: Method,
  args: readonly unknown[],
  signal?: AbortSignal,
): Promise<unknown> => {
  if (method === 'nodes.poll') {
    const [id, options] = args as Parameters<Network['nodes']['poll']>
    return network.nodes.poll(id, { ...options, ...(signal && { signal }) })
  }
  const [group = '', name] = method.split('.')
  const target: unknown = name === undefined ? network : Reflect.get(network, group)
  const called: unknown = Reflect.get(target as object, name ?? group)
  if (typeof called !== 'function')
    throw new BrambleError('unsupported', { detail: `\`${method}\` is no method of a network` })
  return Reflect.apply(called, target, args)
}

export type Call = <T>(method: Method, args: readonly unknown[], signal?: AbortSignal) => Promise<T>

/** A `Network` whose methods are calls. */
export const networkBy = (
  call: Call,
  rest: Pick<Network, 'session' | 'close'> & { readonly events: Network['jobs']['events'] },
): Network => ({
  jobs: {
    submit: (command) => call('jobs.submit', [command]),
    get: (id, tenant) => call('jobs.get', [id, tenant]),
    list: (query, tenant) => call('jobs.list', [query, tenant]),
    cancel: (id, tenant) => call('jobs.cancel', [id, tenant]),
    executions: (id, tenant) => call('jobs.executions', [id, tenant]),
    evidence: (id, tenant) => call('jobs.evidence', [id, tenant]),
    events: rest.events,
  },
  nodes: {
    register: (command) => call('nodes.register', [command]),
    get: (id) => call('nodes.get', [id]),
    list: (query) => call('nodes.list', [query]),
    reputation: (id, query) => call('nodes.reputation', [id, query]),
    drain: (id) => call('nodes.drain', [id]),
    resume: (id) => call('nodes.resume', [id]),
    suspend: (id, message) => call('nodes.suspend', [id, message]),
    invite: (request) => call('nodes.invite', [request]),
    publicKey: (id) => call('nodes.publicKey', [id]),
    heartbeat: (id, running, report) => call('nodes.heartbeat', [id, running, report]),
    poll: (id, { signal, ...options }) => call('nodes.poll', [id, options], signal),
    commit: (id, commits, failures) => call('nodes.commit', [id, commits, failures]),
    renew: (id, lease) => call('nodes.renew', [id, lease]),
  },
  session: rest.session,
  routing: {
    user: (user, caller) => call('routing.user', [user, caller]),
    instance: (ref, caller) => call('routing.instance', [ref, caller]),
    startInstance: (spec, caller) => call('routing.startInstance', [spec, caller]),
    instances: (query, tenant) => call('routing.instances', [query, tenant]),
    snapshotInstance: (ref, tenant) => call('routing.snapshotInstance', [ref, tenant]),
    removeInstance: (ref, tenant) => call('routing.removeInstance', [ref, tenant]),
  },
  takeNonce: (node, nonce) => call('takeNonce', [node, nonce]),
  putDocument: (kind, id, value) => call('putDocument', [kind, id, value]),
  credit: (tenant, credits) => call('credit', [tenant, credits]),
  stats: () => call('stats', []),
  close: rest.close,
  [Symbol.asyncDispose]: rest.close,
})
