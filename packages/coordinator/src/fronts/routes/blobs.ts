import { byteRange, drainBriefly, json, sendBytes } from '@bramble/http'
import { type BlobHash, BrambleError, blobParamsSchema, blobSchema } from '@bramble/protocol'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { z } from 'zod'
import { boundedUpload } from '../bounded-upload.ts'
import type { FrontContext } from '../front-context.ts'
import { route } from '../route.ts'

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

const send = async (
  hash: BlobHash,
  { request, reply, signal }: { request: FastifyRequest; reply: FastifyReply; signal: AbortSignal },
  { blobs, limits }: FrontContext,
) => {
  const { stallTimeoutMs } = limits
  const info = await blobs.stat(hash, { signal })
  if (!info) throw new BrambleError('blob_not_found', { detail: `\`${hash}\`` })
  const { sizeBytes } = info
  const tagOf = `"${hash}"`
  const headers = {
    'content-type': 'application/octet-stream',
    // What a job left is never shown as a page of the coordinator's own.
    'content-disposition': 'attachment',
    'accept-ranges': 'bytes',
    etag: tagOf,
  }
  const about = { headers, stallTimeoutMs, count: () => {} }
  if (request.headers['if-none-match'] === tagOf) return sendBytes(reply, { ...about, status: 304 })
  if (request.method === 'HEAD') return sendBytes(reply, { ...about, status: 200, length: sizeBytes })
  const wanted = request.headers['if-range'] === undefined || request.headers['if-range'] === tagOf
  const part = wanted && request.headers.range ? rangeOf(request.headers.range, sizeBytes, reply) : undefined
  if (!part)
    return sendBytes(reply, { ...about, status: 200, length: sizeBytes, body: await blobs.get(hash, { signal }) })
  const end = part.offset + part.length
  const body = await blobs.get(hash, { range: { start: part.offset, end }, signal })
  const contentRange = `bytes ${part.offset}-${end - 1}/${sizeBytes}`
  const ranged = { ...about, headers: { ...headers, 'content-range': contentRange } }
  return sendBytes(reply, { ...ranged, status: 206, length: part.length, body })
}

const rangeOf = (header: string, sizeBytes: number, reply: FastifyReply) => {
  try {
    return byteRange(header, sizeBytes)
  } catch (error) {
    reply.header('content-range', `bytes */${sizeBytes}`)
    throw error
  }
}

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
      return send(hash, call, context)
    },
  })

export const blobRoutes = [put, putNamed, read('GET'), read('HEAD')]
