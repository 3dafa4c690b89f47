import { drainBriefly, json } from '@bramble/http'
import { type BlobHash, blobParamsSchema, blobSchema } from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import { boundedUpload } from '../bounded-upload.ts'
import type { FrontContext } from '../front-context.ts'
import { route } from '../route.ts'
import { sendStored } from '../send-stored.ts'

const tag = 'blobs'
const path = '/api/v1/blobs'
const one = `${path}/:hash`
const STORE = ['store_unavailable', 'blob_corrupt'] as const

const store = async (
  { request, caller, signal }: { request: FastifyRequest; caller: { tenant: string }; signal: AbortSignal },
  { limits, tenantBlobs }: FrontContext,
  expect: BlobHash | undefined,
) => {
  try {
    const { source, sizeBytes } = boundedUpload(request.raw, limits)
    const stored = await tenantBlobs.putInput(caller.tenant, source, { expect, sizeBytes, signal })
    return json(200, { ...stored, origin: 'put' })
  } catch (error) {
    await drainBriefly(request.raw)
    throw error
  }
}

const uploads = {
  tag,
  description: 'For `files` of jobs: workers that run them read it. Putting it again begins its time anew.',
  scope: 'execute',
  upload: ['*'],
  answer: { status: 200, description: 'The blob', schema: blobSchema },
  errors: [...STORE, 'body_too_large', 'request_timeout', 'store_full', 'store_read_only'],
} as const

const put = route({
  ...{ ...uploads, method: 'PUT', path, summary: 'Store the body as a blob' },
  query: z.strictObject({ expect: blobParamsSchema.shape.hash.optional() }),
  handle: (call, context) => store(call, context, call.query.expect),
})

const putNamed = route({
  ...{
    ...uploads,
    method: 'PUT',
    path: one,
    summary: 'Store the body as the blob of this name; other bytes are refused',
  },
  params: blobParamsSchema,
  handle: (call, context) => store(call, context, call.params.hash),
})

const read = (method: 'GET' | 'HEAD') =>
  route({
    method,
    path: one,
    tag,
    summary: method === 'GET' ? 'Read a blob, or a range of it' : 'What reading a blob would answer, without its bytes',
    description: 'A tenant has what it put, and what results name that it was shown.',
    scope: 'read',
    params: blobParamsSchema,
    answer: { status: 200, description: 'Its bytes', mediaType: 'application/octet-stream' },
    errors: [...STORE, 'blob_not_found', 'range_not_satisfiable'],
    handle: async (call, context) => {
      const { hash } = call.params
      await context.tenantBlobs.requireOfTenant(call.caller.tenant, hash)
      return sendStored(call, hash, context)
    },
  })

export const blobRoutes = [put, putNamed, read('GET'), read('HEAD')]
