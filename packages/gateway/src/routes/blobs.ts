import type { OutgoingHttpHeaders } from 'node:http'
import { byteRange, drainBriefly, json, receiveBytes, sendBytes } from '@bramble/http'
import {
  BrambleError,
  blobParamsSchema,
  blobPutQuerySchema,
  blobSchema,
  pageQuerySchema,
  pageSchema,
  type TenantBlob,
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
      const { headers } = request
      const blob = await engine.tenantBlobs.stat(caller.tenant, hash)
      const { sizeBytes } = blob
      const about = { stallTimeoutMs: limits.stallTimeoutMs, count: countOutput, headers: headersOf(blob) }
      const tags = headers['if-none-match']?.split(',').map((text) => text.trim().replace(/^W\//, ''))
      if (tags?.includes('*') || tags?.includes(tagOf(hash))) return await sendBytes(reply, { ...about, status: 304 })
      if (method === 'HEAD') return await sendBytes(reply, { ...about, status: 200, length: sizeBytes })
      const wanted = headers['if-range'] === undefined || headers['if-range'] === tagOf(hash)
      try {
        const part = wanted && headers.range !== undefined ? byteRange(headers.range, sizeBytes) : undefined
        const range = part && { start: part.offset, end: part.offset + part.length }
        const body = await engine.tenantBlobs.get(caller.tenant, hash, { range, signal })
        if (!range) return await sendBytes(reply, { ...about, status: 200, length: sizeBytes, body })
        const contentRange = `bytes ${range.start}-${range.end - 1}/${sizeBytes}`
        const more = { length: range.end - range.start, headers: { ...about.headers, 'content-range': contentRange } }
        return await sendBytes(reply, { ...about, ...more, status: 206, body })
      } catch (error) {
        if (error instanceof BrambleError && error.code === 'range_not_satisfiable')
          reply.header('content-range', `bytes */${sizeBytes}`)
        throw error
      }
    },
  })

const tagOf = (hash: string): string => `"${hash}"`

/** What a tenant put is never shown as a page of the node's own. */
const headersOf = ({ hash, createdAt }: TenantBlob): OutgoingHttpHeaders => ({
  'content-type': 'application/octet-stream',
  'content-disposition': 'attachment',
  'accept-ranges': 'bytes',
  etag: tagOf(hash),
  'last-modified': new Date(createdAt).toUTCString(),
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
