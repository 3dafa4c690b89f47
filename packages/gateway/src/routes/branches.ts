import { json } from '@bramble/http'
import {
  branchesQuerySchema,
  branchesRequestSchema,
  branchesResponseSchema,
  branchSchema,
  instanceBranchRequestSchema,
  instanceParamsSchema,
  mergeRequestSchema,
  mergeResponseSchema,
  pageSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'
import { instanceContext } from './instances.ts'

const tag = 'branches'
const path = '/api/v1/branches'
const BRANCH_ERRORS = [
  ...(['not_found', 'conflict', 'instance_stopped', 'unsupported', 'checkpoint_refused'] as const),
  ...(['snapshot_incompatible', 'quota_exceeded', 'queue_full', 'sandbox_failed', 'store_unavailable'] as const),
]
const DESCRIPTION =
  'Each is an instance of its own, with its own name, addresses and entropy. With `count` the answer comes when they run, with `commands` when every one has run its command. The parent stands still for milliseconds.'
const ANSWER = { status: 201, description: 'The branches', schema: branchesResponseSchema }

const create = route({
  method: 'POST',
  path,
  tag,
  summary: 'Make branches: instances that continue from an instance, a snapshot, or what an execution left',
  description: DESCRIPTION,
  scope: 'execute',
  body: branchesRequestSchema,
  answer: ANSWER,
  errors: BRANCH_ERRORS,
  idempotent: true,
  handle: async ({ body, caller, signal }, { engine }) =>
    json(201, await engine.snapshots.branch(body, instanceContext(caller, signal))),
})

const createOf = route({
  method: 'POST',
  path: '/api/v1/instances/:id/branch',
  tag,
  summary: 'Make branches of an instance',
  description: DESCRIPTION,
  scope: 'execute',
  params: instanceParamsSchema,
  body: instanceBranchRequestSchema,
  answer: ANSWER,
  errors: BRANCH_ERRORS,
  idempotent: true,
  handle: async ({ params, body, caller, signal }, { engine }) => {
    // A name may be that of an instance and of a snapshot: here it is the instance's.
    const { id } = await engine.instances.get(params.id, caller.tenant)
    return json(201, await engine.snapshots.branch({ ...body, parent: id }, instanceContext(caller, signal)))
  },
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List branches, oldest first: what descends from `parent` at any depth, or all of them',
  scope: 'read',
  query: branchesQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(branchSchema) },
  errors: ['not_found'],
  handle: async ({ query, caller }, { engine }) =>
    json(200, await engine.snapshots.branches({ ...query, tenant: caller.tenant })),
})

const merge = route({
  method: 'POST',
  path: '/api/v1/merge',
  tag,
  summary: 'Fold the files of branches into one snapshot, against what they began from',
  description:
    'Disjoint changes fold together; a text that several changed in different lines is merged by lines. What remains is a conflict: with `fail` they are listed and there is no `snapshot` in the answer, with `ours` (the first of `branches`), `theirs` or `union` they are settled, and listed too.',
  scope: 'execute',
  body: mergeRequestSchema,
  answer: { status: 200, description: 'The snapshot, and every conflict', schema: mergeResponseSchema },
  errors: ['not_found', 'conflict', 'unsupported', 'blob_corrupt', 'store_full', 'store_unavailable'],
  idempotent: true,
  handle: async ({ body, caller, signal }, { engine }) =>
    json(200, await engine.snapshots.merge(body, instanceContext(caller, signal))),
})

export const branchRoutes = [create, createOf, list, merge]
