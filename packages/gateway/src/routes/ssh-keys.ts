import { json } from '@bramble/http'
import { sshKeyIdSchema, sshKeyRequestSchema, sshKeySchema } from '@bramble/protocol'
import { z } from 'zod'
import { route } from '../route.ts'

const tag = 'ssh keys'
const path = '/api/v1/ssh-keys'

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List the public keys that may log in to the tenant’s instances by SSH',
  scope: 'read',
  answer: {
    status: 200,
    description: 'All of them',
    schema: z.object({ items: z.array(sshKeySchema), nextCursor: z.null() }),
  },
  errors: [],
  handle: async ({ caller }, { sshKeys }) => json(200, { items: sshKeys.list(caller.tenant), nextCursor: null }),
})

const add = route({
  method: 'POST',
  path,
  tag,
  summary: 'Let a public key log in to the tenant’s instances by SSH',
  scope: 'execute',
  body: sshKeyRequestSchema,
  answer: { status: 201, description: 'The key', schema: sshKeySchema },
  errors: ['conflict', 'quota_exceeded'],
  idempotent: true,
  handle: async ({ body, caller }, { sshKeys }) => json(201, await sshKeys.add(caller.tenant, body)),
})

const remove = route({
  method: 'DELETE',
  path: `${path}/:id`,
  tag,
  summary: 'Let a public key log in no more; connections that it opened go on',
  scope: 'execute',
  params: z.strictObject({ id: sshKeyIdSchema }),
  answer: { status: 204, description: 'It is gone' },
  errors: ['not_found'],
  handle: async ({ params, caller }, { sshKeys }) => {
    await sshKeys.remove(caller.tenant, params.id)
    return { status: 204 }
  },
})

export const sshKeyRoutes = [list, add, remove]
