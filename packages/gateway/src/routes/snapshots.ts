import { json } from '@bramble/http'
import {
  instanceParamsSchema,
  instanceSchema,
  instanceSnapshotRequestSchema,
  pageSchema,
  restoreRequestSchema,
  snapshotChangeSchema,
  snapshotDiffParamsSchema,
  snapshotDiffSchema,
  snapshotParamsSchema,
  snapshotRequestSchema,
  snapshotSchema,
  snapshotsQuerySchema,
} from '@bramble/protocol'
import { route } from '../route.ts'
import { instanceContext } from './instances.ts'

const tag = 'snapshots'
const path = '/api/v1/snapshots'

const TAKE = {
  method: 'POST',
  tag,
  scope: 'execute',
  description:
    'The instance stands still for milliseconds and goes on; the answer comes when the snapshot is on stable storage. `memory: true` insists on the processes, `false` leaves them out.',
  answer: { status: 201, description: 'The snapshot', schema: snapshotSchema },
  errors: [
    ...(['not_found', 'conflict', 'instance_stopped', 'unsupported', 'checkpoint_refused'] as const),
    ...(['quota_exceeded', 'store_full', 'store_unavailable', 'store_read_only'] as const),
  ],
  idempotent: true,
} as const

const take = route({
  ...TAKE,
  path,
  summary: 'Take a snapshot of an instance: its files, and its processes with their memory where that works',
  body: snapshotRequestSchema,
  handle: async ({ body, caller, signal }, { engine }) => {
    const { instanceId, ...request } = body
    return json(201, await engine.snapshots.take(instanceId, request, instanceContext(caller, signal)))
  },
})

const takeOf = route({
  ...TAKE,
  path: '/api/v1/instances/:id/snapshot',
  summary: 'Take a snapshot of this instance',
  params: instanceParamsSchema,
  body: instanceSnapshotRequestSchema,
  bodyOptional: true,
  handle: async ({ params, body, caller, signal }, { engine }) =>
    json(201, await engine.snapshots.take(params.id, body, instanceContext(caller, signal))),
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List snapshots, newest first',
  scope: 'read',
  query: snapshotsQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(snapshotSchema) },
  errors: [],
  handle: async ({ query, caller }, { engine }) =>
    json(200, await engine.snapshots.list({ ...query, tenant: caller.tenant })),
})

const get = route({
  method: 'GET',
  path: `${path}/:id`,
  tag,
  summary: 'Show a snapshot, by its id, the first 8 or more characters of it, or its name',
  description: 'By its whole id also one that another node left in the shared tier of the store.',
  scope: 'read',
  params: snapshotParamsSchema,
  answer: { status: 200, description: 'The snapshot', schema: snapshotSchema },
  errors: ['not_found', 'conflict'],
  handle: async ({ params, caller }, { engine }) => json(200, await engine.snapshots.get(params.id, caller.tenant)),
})

const change = route({
  method: 'PATCH',
  path: `${path}/:id`,
  tag,
  summary: 'Change the name, the labels or the time to live of a snapshot; `null` takes one away',
  scope: 'execute',
  params: snapshotParamsSchema,
  body: snapshotChangeSchema,
  answer: { status: 200, description: 'The snapshot', schema: snapshotSchema },
  errors: ['not_found', 'conflict'],
  handle: async ({ params, body, caller }, { engine }) =>
    json(200, await engine.snapshots.change(params.id, caller.tenant, body)),
})

const remove = route({
  method: 'DELETE',
  path: `${path}/:id`,
  tag,
  summary: 'Remove a snapshot',
  description: 'What was made from it lives on. Its bytes go with the next collection, where nothing else needs them.',
  scope: 'execute',
  params: snapshotParamsSchema,
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found', 'conflict'],
  handle: async ({ params, caller }, { engine }) => {
    await engine.snapshots.remove(params.id, caller.tenant)
    return { status: 204 }
  },
})

const restore = route({
  method: 'POST',
  path: `${path}/:id/restore`,
  tag,
  summary: 'Make an instance that continues from a snapshot',
  description:
    'Its processes go on where the snapshot has them and this node can; `memory: false` begins with the files alone.',
  scope: 'execute',
  params: snapshotParamsSchema,
  body: restoreRequestSchema,
  bodyOptional: true,
  answer: { status: 201, description: 'The instance, running', schema: instanceSchema },
  errors: [
    ...(['not_found', 'conflict', 'unsupported', 'snapshot_incompatible', 'image_not_found'] as const),
    ...(['quota_exceeded', 'queue_full', 'sandbox_failed', 'blob_corrupt', 'store_unavailable'] as const),
  ],
  idempotent: true,
  handle: async ({ params, body, caller, signal }, { engine }) =>
    json(201, await engine.snapshots.restore(params.id, body, instanceContext(caller, signal))),
})

const diff = route({
  method: 'GET',
  path: `${path}/:id/diff/:other`,
  tag,
  summary: 'What is other in the files of `other` than in those of this one',
  scope: 'read',
  params: snapshotDiffParamsSchema,
  answer: {
    status: 200,
    description: 'Files added, changed and removed, with their sizes',
    schema: snapshotDiffSchema,
  },
  errors: ['not_found', 'conflict', 'blob_corrupt', 'store_unavailable'],
  handle: async ({ params, caller, signal }, { engine }) =>
    json(200, await engine.snapshots.diff(params.id, params.other, caller.tenant, { signal })),
})

export const snapshotRoutes = [take, takeOf, list, get, change, remove, restore, diff]
