import { json } from '@bramble/http'
import {
  BrambleError,
  type JobRequest,
  jobEventSchema,
  jobEventsQuerySchema,
  jobEvidenceSchema,
  jobExecutionSchema,
  jobParamsSchema,
  jobRequestSchema,
  jobSchema,
  jobsQuerySchema,
  LIMITS,
  pageSchema,
  parse,
} from '@bramble/protocol'
import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import type { FrontContext } from '../front-context.ts'
import { route } from '../route.ts'
import { inputBlobsOf } from '../tenant-blobs.ts'

const tag = 'jobs'
const path = '/api/v1/jobs'
const one = `${path}/:id`
const params = jobParamsSchema

const bodyBytes = ({ body }: FastifyRequest): number => (Buffer.isBuffer(body) ? body.length : 0)

/** What a job reads has to be the tenant's own, and small enough to be held for as long as it waits. */
const admit = async (
  { tenantBlobs }: FrontContext,
  tenant: string,
  request: FastifyRequest,
  files: JobRequest['spec']['files'],
): Promise<void> => {
  if (bodyBytes(request) > LIMITS.maxJobBytes.value)
    throw new BrambleError('body_too_large', {
      detail: `a job has at most ${LIMITS.maxJobBytes.value} bytes: put larger files as blobs before`,
    })
  for (const hash of inputBlobsOf(files)) await tenantBlobs.requireOfTenant(tenant, hash)
}

const submit = route({
  method: 'POST',
  path,
  tag,
  summary: 'Submit a job: it is durable when this answers',
  description:
    'The fields of an execution spec and those of a job in one object. The same `Idempotency-Key` with the same body is the same job, at every coordinator, for as long as the job is known.',
  scope: 'execute',
  body: jobRequestSchema,
  answer: { status: 201, description: 'The job', schema: jobSchema },
  errors: ['quota_exceeded', 'queue_full', 'blob_not_found', 'insufficient_credits', 'not_leader'],
  idempotent: 'by handler',
  handle: async (call, context) => {
    const { tenant } = call.caller
    await admit(context, tenant, call.request, call.body.spec.files)
    const { idempotency } = call
    const { job, repeated } = await context.network.jobs.submit({
      tenant,
      request: call.body,
      ...(idempotency && { idempotency }),
    })
    if (repeated) {
      call.reply.header('idempotent-replayed', 'true')
      await context.tenantBlobs.show(tenant, [job])
    }
    call.reply.header('location', `${path}/${job.id}`)
    return json(201, job)
  },
})

const list = route({
  method: 'GET',
  path,
  tag,
  summary: 'List jobs, newest first, without their results',
  scope: 'read',
  query: jobsQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(jobSchema) },
  errors: ['not_leader'],
  handle: async ({ query, caller }, { network }) => {
    const { items, nextCursor } = await network.jobs.list(query, caller.tenant)
    // Hundreds of outputs would be a document of many megabytes.
    return json(200, { items: items.map(({ result: _result, ...job }) => job), nextCursor })
  },
})

const get = route({
  method: 'GET',
  path: one,
  tag,
  summary: 'One job; its result once there is a verdict',
  scope: 'read',
  params,
  answer: { status: 200, description: 'The job', schema: jobSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, caller }, { network, tenantBlobs }) => {
    const job = await network.jobs.get(id, caller.tenant)
    await tenantBlobs.show(caller.tenant, [job])
    return json(200, job)
  },
})

const cancel = route({
  method: 'DELETE',
  path: one,
  tag,
  summary: 'Cancel a job; one that has ended stays as it is',
  scope: 'execute',
  params,
  answer: { status: 200, description: 'The job', schema: jobSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, caller }, { network, tenantBlobs }) => {
    const job = await network.jobs.cancel(id, caller.tenant)
    await tenantBlobs.show(caller.tenant, [job])
    return json(200, job)
  },
})

const executions = route({
  method: 'GET',
  path: `${one}/executions`,
  tag,
  summary: 'The replicas of a job: where each ran, why it was placed, how it counted',
  description: 'Nothing of what came out before the verdict.',
  scope: 'read',
  params,
  answer: { status: 200, description: 'All of them', schema: z.object({ items: z.array(jobExecutionSchema) }) },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, caller }, { network }) =>
    json(200, { items: await network.jobs.executions(id, caller.tenant) }),
})

const receipts = route({
  method: 'GET',
  path: `${one}/receipts`,
  tag,
  summary: 'The evidence of a verdict: receipts that anyone can check',
  scope: 'read',
  params,
  answer: { status: 200, description: 'Who agreed, with what weight', schema: jobEvidenceSchema },
  errors: ['not_found', 'not_leader'],
  handle: async ({ params: { id }, caller }, { network }) => json(200, await network.jobs.evidence(id, caller.tenant)),
})

/** What a client that comes back saw last (WHATWG HTML, section 9.2.4); the header is newer than the query. */
const sinceOf = (request: FastifyRequest, since: number | undefined): number | undefined => {
  const header = request.headers['last-event-id']
  return typeof header === 'string' && header !== '' ? parse(jobEventsQuerySchema, { since: header }).since : since
}

const events = route({
  method: 'GET',
  path: `${one}/events`,
  tag,
  summary: 'What happened to a job, then what happens, until it ends (server-sent events)',
  description:
    'The id of an event is its `seq`; `since`, or `Last-Event-ID`, goes on after it. A client that takes nothing is cut off, and goes on from there.',
  scope: 'read',
  params,
  query: jobEventsQuerySchema,
  answer: { status: 200, description: 'Events', mediaType: 'text/event-stream' },
  events: jobEventSchema,
  errors: ['not_found', 'not_leader'],
  handle: async (call, { network, tenantBlobs, leaving }) => {
    const { tenant } = call.caller
    const since = sinceOf(call.request, call.query.since)
    const { id } = call.params
    // What is not there is said by a status, not by an event.
    await network.jobs.get(id, tenant)
    const stream = call.openStream()
    const signal = AbortSignal.any([call.signal, leaving])
    for await (const event of network.jobs.events(id, tenant, { ...(since !== undefined && { since }), signal })) {
      if (event.type === 'job') await tenantBlobs.show(tenant, [event.job])
      const wait = stream.send(event.type, JSON.stringify(event), event.seq)
      if (wait) await wait
      if (stream.closed) break
    }
    return { status: 200 }
  },
})

export const jobRoutes = [submit, list, get, cancel, executions, receipts, events]
