import { drainBriefly, json, receiveBytes, sendBlob } from '@bramble/http'
import {
  BrambleError,
  blobParamsSchema,
  blobPutQuerySchema,
  blobSchema,
  pageQuerySchema,
  pageSchema,
} from '@bramble/protocol'
import { route } from '../route.ts'

const tag = 'blobs'
const path = '/api/v1/blobs'
const one = `${path}/:hash`
const params = blobParamsSchema
const STORE = ['store_unavailable', 'blob_corrupt'] as const

const put = route({
  method: 'PUT',
  path,
  tag,
  summary: 'Store the body, whatever its type and size, as a blob',
  description:
    'For `files` of specs. It is the tenant’s until `ttlMs` is over (30 days by default) or it is removed; putting it again begins its time anew. `expect`: other bytes are refused. Nothing sent for a minute ends the upload.',
  scope: 'execute',
  query: blobPutQuerySchema,
  upload: ['*'],
  answer: { status: 200, description: 'The blob', schema: blobSchema },
  errors: [...STORE, 'quota_exceeded', 'body_too_large', 'request_timeout', 'store_full', 'store_read_only'],
  handle: async ({ request, query, caller, signal }, { engine, limits, countOutput }) => {
    const { raw } = request
    try {
      const coding = raw.headers['content-encoding'] ?? 'identity'
      if (coding !== 'identity')
        throw new BrambleError('unsupported_media_type', { detail: `content-encoding \`${coding}\` is not read` })
      const length = raw.headers['content-length']
      const content = receiveBytes(raw, { stallTimeoutMs: limits.uploadStallMs, count: countOutput })
      const blob = await engine.tenantBlobs.put(caller.tenant, content, {
        ...{ ...query, quota: caller.quota, signal },
        ...(length !== undefined && { sizeBytes: Number(length) }),
      })
      return json(200, blob)
    } catch (error) {
      await drainBriefly(raw)
      throw error
    }
  },
})

const read = (method: 'GET' | 'HEAD') =>
  route({
    method,
    path: one,
    tag,
    summary: method === 'GET' ? 'Read a blob, or a range of it' : 'What reading a blob would answer, without its bytes',
    description:
      'One `Range` is heeded (RFC 9110), and `If-None-Match`. A tenant has what it put, and what its results left.',
    scope: 'read',
    params,
    answer: { status: 200, description: 'Its bytes', mediaType: 'application/octet-stream' },
    errors: [...STORE, 'blob_not_found', 'range_not_satisfiable'],
    handle: async ({ params: { hash }, caller, request, reply, signal }, { engine, limits, countOutput }) => {
      const { sizeBytes, createdAt } = await engine.tenantBlobs.stat(caller.tenant, hash)
      return sendBlob(request, reply, {
        ...{ hash, sizeBytes, stallTimeoutMs: limits.stallTimeoutMs, count: countOutput },
        headers: { 'last-modified': new Date(createdAt).toUTCString() },
        open: (range) => engine.tenantBlobs.get(caller.tenant, hash, { range, signal }),
      })
    },
  })

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List the tenant’s blobs, by hash',
  scope: 'read',
  query: pageQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(blobSchema) },
  errors: [],
  handle: async ({ query, caller }, { engine }) =>
    json(200, await engine.tenantBlobs.list({ ...query, tenant: caller.tenant })),
})

const remove = route({
  method: 'DELETE',
  path: one,
  tag,
  summary: 'Give a blob up',
  description: 'Its bytes go with the next collection, where nothing else needs them.',
  scope: 'execute',
  params,
  answer: { status: 204, description: 'The tenant has it no longer' },
  errors: ['blob_not_found'],
  handle: async ({ params: { hash }, caller }, { engine }) => {
    await engine.tenantBlobs.remove(caller.tenant, hash)
    return { status: 204 }
  },
})

export const blobRoutes = [put, list, read('GET'), read('HEAD'), remove]
