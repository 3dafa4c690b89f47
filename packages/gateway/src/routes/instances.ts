import type { InstanceContext, Instances } from '@bramble/engine'
import { type Caller, json } from '@bramble/http'
import {
  extendRequestSchema,
  type Instance,
  instanceParamsSchema,
  instanceSchema,
  instanceSpecSchema,
  instanceStatsSchema,
  instancesQuerySchema,
  pageSchema,
  pauseRequestSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'

/** On whose behalf the engine makes instances and snapshots. */
export const instanceContext = ({ tenant, keyId, quota }: Caller, signal: AbortSignal): InstanceContext => ({
  tenant,
  keyId,
  quota,
  signal,
})

const tag = 'instances'
const path = '/api/v1/instances'

const create = route({
  method: 'POST',
  path,
  tag,
  summary: 'Start an instance: a sandbox that outlives one command',
  description: 'Answers when it runs.',
  scope: 'execute',
  body: instanceSpecSchema,
  answer: { status: 201, description: 'The instance, running', schema: instanceSchema },
  errors: ['image_not_found', 'unsupported', 'conflict', 'quota_exceeded', 'queue_full', 'sandbox_failed'],
  idempotent: true,
  handle: async ({ body, caller, signal }, { engine }) =>
    json(201, await engine.instances.create(body, instanceContext(caller, signal))),
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List instances, newest first',
  scope: 'read',
  query: instancesQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(instanceSchema) },
  errors: [],
  handle: async (call, { engine }) =>
    json(200, await engine.instances.list({ ...call.query, tenant: call.caller.tenant })),
})

const get = route({
  method: 'GET',
  path: `${path}/:id`,
  tag,
  summary: 'Show an instance, by its id or its name',
  scope: 'read',
  params: instanceParamsSchema,
  answer: { status: 200, description: 'The instance', schema: instanceSchema },
  errors: ['not_found'],
  handle: async (call, { engine }) => json(200, await engine.instances.get(call.params.id, call.caller.tenant)),
})

const remove = route({
  method: 'DELETE',
  path: `${path}/:id`,
  tag,
  summary: 'Delete an instance: its processes, its files, all of it',
  scope: 'execute',
  params: instanceParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found'],
  handle: async (call, { engine }) => {
    await engine.instances.remove(call.params.id, call.caller.tenant)
    return { status: 204 }
  },
})

/** A change of state that takes nothing but the instance. */
const change = (
  name: 'start' | 'stop' | 'resume',
  summary: string,
  description: string,
  work: (instances: Instances, ref: string, tenant: string) => Promise<Instance>,
) =>
  route({
    method: 'POST',
    path: `${path}/:id/${name}`,
    tag,
    summary,
    description,
    scope: 'execute',
    params: instanceParamsSchema,
    answer: { status: 200, description: 'The instance, after it', schema: instanceSchema },
    errors: ['not_found', 'conflict', 'unsupported', 'queue_full', 'sandbox_failed'],
    handle: async (call, { engine }) => json(200, await work(engine.instances, call.params.id, call.caller.tenant)),
  })

const stop = change(
  'stop',
  'Stop an instance: its processes end, its files are kept',
  'SIGTERM first, SIGKILL after a grace.',
  (instances, ref, tenant) => instances.stop(ref, tenant),
)
const start = change(
  'start',
  'Start a stopped instance again, on the files it had',
  'Its `command` runs again.',
  (instances, ref, tenant) => instances.start(ref, tenant),
)
const pause = route({
  method: 'POST',
  path: `${path}/:id/pause`,
  tag,
  summary: 'Pause an instance: its processes stand still and use no processor time',
  description:
    'The next request resumes it, unless `autoResume` is off. With `snapshot` its state is saved and its sandbox let go: it takes no memory, and outlives the host.',
  scope: 'execute',
  params: instanceParamsSchema,
  body: pauseRequestSchema,
  bodyOptional: true,
  answer: { status: 200, description: 'The instance, after it', schema: instanceSchema },
  errors: [
    ...(['not_found', 'conflict', 'unsupported', 'checkpoint_refused', 'quota_exceeded'] as const),
    ...(['store_full', 'store_unavailable', 'store_read_only'] as const),
  ],
  handle: async ({ params, body, caller, signal }, { engine }) => {
    const paused = body.snapshot
      ? engine.snapshots.pause(params.id, instanceContext(caller, signal))
      : engine.instances.pause(params.id, caller.tenant)
    return json(200, await paused)
  },
})
const resume = change(
  'resume',
  'Resume a paused instance',
  'Its processes go on where they were.',
  (instances, ref, tenant) => instances.resume(ref, tenant),
)

const extend = route({
  method: 'POST',
  path: `${path}/:id/extend`,
  tag,
  summary: 'Let an instance live `ttlMs` from now, or until someone deletes it (`null`)',
  scope: 'execute',
  params: instanceParamsSchema,
  body: extendRequestSchema,
  answer: { status: 200, description: 'The instance', schema: instanceSchema },
  errors: ['not_found'],
  handle: async ({ params, body, caller }, { engine }) =>
    json(200, await engine.instances.extend(params.id, caller.tenant, body.ttlMs)),
})

const stats = route({
  method: 'GET',
  path: `${path}/:id/stats`,
  tag,
  summary: 'What a running instance uses',
  scope: 'read',
  params: instanceParamsSchema,
  answer: { status: 200, description: 'Its use', schema: instanceStatsSchema },
  errors: ['not_found', 'instance_stopped'],
  handle: async (call, { engine }) => json(200, await engine.instances.stats(call.params.id, call.caller.tenant)),
})

export const instanceRoutes = [create, list, get, remove, stop, start, pause, resume, extend, stats]
