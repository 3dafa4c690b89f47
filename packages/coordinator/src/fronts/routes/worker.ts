import { drainBriefly, json } from '@bramble/http'
import {
  BrambleError,
  blobParamsSchema,
  blobSchema,
  leaseParamsSchema,
  leaseRenewedSchema,
  leaseRenewSchema,
  nodeParamsSchema,
  pendingJobsQuerySchema,
  pendingJobsSchema,
  workerResultAnswerSchema,
  workerResultSchema,
} from '@bramble/protocol'
import { boundedUpload } from '../bounded-upload.ts'
import { checkCommits, explained } from '../check-commits.ts'
import { requireSigner, route } from '../route.ts'
import { sendStored } from '../send-stored.ts'

const tag = 'workers'

const pending = route({
  method: 'GET',
  path: '/api/v1/nodes/:id/pending-jobs',
  tag,
  summary: 'Leases for a worker without a stream, as soon as there are any (long poll)',
  scope: 'node',
  params: nodeParamsSchema,
  query: pendingJobsQuerySchema,
  answer: { status: 200, description: 'Leases, or none', schema: pendingJobsSchema },
  errors: ['not_found', 'node_suspended', 'not_leader'],
  handle: async ({ params: { id }, query, request, signal }, context) => {
    const { node } = requireSigner(context, request, id)
    const items = await context.network.nodes.poll(node, {
      ...query,
      signal: AbortSignal.any([signal, context.leaving]),
    })
    return json(200, { network: context.networkId, publicKey: context.identity.publicKey, items })
  },
})

const result = route({
  method: 'POST',
  path: '/api/v1/worker/result',
  tag,
  summary: 'Results with their receipts, and failures; sending one again is harmless',
  scope: 'node',
  body: workerResultSchema,
  answer: { status: 200, description: 'Item by item: taken, or why not', schema: workerResultAnswerSchema },
  errors: ['not_found', 'node_suspended', 'not_leader'],
  handle: async ({ body, request }, context) => {
    const signer = requireSigner(context, request)
    const { good, bad } = await checkCommits(context, body.commits, signer)
    const failures = [...body.failures, ...bad.map(({ failure }) => failure)]
    const acknowledged = await context.network.nodes.commit(signer.node, good, failures)
    return json(200, { items: explained(acknowledged, bad) })
  },
})

const renew = route({
  method: 'POST',
  path: '/api/v1/worker/lease/:id/renew',
  tag,
  summary: 'The execution is still at work',
  scope: 'node',
  params: leaseParamsSchema,
  body: leaseRenewSchema,
  answer: { status: 200, description: 'For how long it is the node’s now', schema: leaseRenewedSchema },
  errors: ['lease_lost', 'not_found', 'node_suspended', 'not_leader'],
  handle: async ({ params: { id }, body: { token }, request }, context) => {
    const { node } = requireSigner(context, request)
    return json(200, await context.network.nodes.renew(node, { execution: id, token }))
  },
})

const blobPath = '/api/v1/worker/blobs/:hash'

const putBlob = route({
  method: 'PUT',
  path: blobPath,
  tag,
  summary: 'Store what is too large for a result itself',
  description: 'Its signature is over the hash in the path as that of the body; other bytes are refused.',
  scope: 'node',
  params: blobParamsSchema,
  upload: ['*'],
  answer: { status: 200, description: 'The blob', schema: blobSchema },
  errors: ['blob_corrupt', 'body_too_large', 'request_timeout', 'store_full', 'store_unavailable', 'not_found'],
  handle: async ({ params: { hash }, request, signal }, context) => {
    try {
      await context.nodes.verify(request, hash)
      const { node } = requireSigner(context, request)
      const { source, sizeBytes } = boundedUpload(request.raw, context.limits)
      context.rates.nodeUploads.take(node, sizeBytes)
      const stored = await context.tenantBlobs.putResult(node, source, { expect: hash, sizeBytes, signal })
      return json(200, { ...stored, origin: 'result' })
    } catch (error) {
      await drainBriefly(request.raw)
      throw error
    }
  },
})

const getBlob = route({
  method: 'GET',
  path: blobPath,
  tag,
  summary: 'Read a blob that a client put for jobs',
  scope: 'node',
  params: blobParamsSchema,
  answer: { status: 200, description: 'Its bytes', mediaType: 'application/octet-stream' },
  errors: ['blob_not_found', 'blob_corrupt', 'store_unavailable', 'range_not_satisfiable'],
  handle: async (call, context) => {
    const { hash } = call.params
    await context.tenantBlobs.requireInput(hash)
    return sendStored(call, hash, context)
  },
})

const session = route({
  method: 'GET',
  path: '/api/v1/nodes/:id/session',
  tag,
  summary: 'The stream of a worker (WebSocket)',
  description: 'Challenge, signed hello, welcome, then frames with codes: see the schemas of worker frames.',
  scope: 'public',
  params: nodeParamsSchema,
  answer: { status: 101, description: 'A WebSocket' },
  errors: [],
  handle: async () => {
    throw new BrambleError('invalid_request', { detail: 'this is a WebSocket: ask for an upgrade' })
  },
})

export const workerRoutes = [pending, result, renew, putBlob, getBlob, session]
