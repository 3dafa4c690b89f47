import { z } from 'zod'
import { problemSchema } from './errors.ts'
import { executionIdSchema, instanceIdSchema } from './ids.ts'
import { instanceSchema } from './instances.ts'
import { LIMITS } from './limits.ts'
import { nodeReportSchema, reputationEntrySchema } from './network-nodes.ts'
import { bytes32Schema, nodeIdSchema, publicKeySchema } from './receipts.ts'
import { leaseRefSchema, leaseSchema } from './worker-frames.ts'

/**
 * Requests and answers of a coordinator that are no jobs, nodes or frames.
 *
 * Requests of nodes carry `bramble-node`, `bramble-timestamp` (milliseconds since 1970), `bramble-nonce` (16 random bytes in
 * hex) and `bramble-signature` over method, path with query, SHA-256 of the body, timestamp and nonce (`requestDigest` of
 * identity). The timestamp may be `maxClockSkewMs` off, else `clock_skew`; every answer of a coordinator has its own time in
 * `bramble-time`. A nonce is taken once, else `replayed`.
 */

const leases = <T extends z.ZodType>(item: T) => z.array(item).max(LIMITS.maxLeases.value)

/** `POST /api/v1/nodes/:id/heartbeat`, for workers without a stream. */
export const heartbeatSchema = z.strictObject({
  running: leases(leaseRefSchema).default([]),
  report: nodeReportSchema.optional(),
})
/** What receipts of this network name, and its key. */
const networkName = { network: bytes32Schema, publicKey: publicKeySchema }
/** Of `running`: go on with these; stop all others. */
export const heartbeatAnswerSchema = z.object({ ...networkName, keep: leases(leaseRefSchema) })

/** `GET /api/v1/nodes/:id/pending-jobs`: answers when there is a lease, or after `waitMs`. */
export const pendingJobsQuerySchema = z.strictObject({
  waitMs: z.coerce.number().int().min(0).max(LIMITS.maxLeaseWaitMs.value).default(LIMITS.maxLeaseWaitMs.value),
  max: z.coerce.number().int().min(1).max(256).default(16),
})
export const pendingJobsSchema = z.object({ ...networkName, items: z.array(leaseSchema) })

/** The answer to `POST /api/v1/worker/result`: each is taken, or why not. */
export const workerResultAnswerSchema = z.object({
  items: z.array(leaseRefSchema.extend({ error: problemSchema.optional() })),
})

/** `POST /api/v1/worker/lease/:id/renew`; the id is the execution's. */
export const leaseParamsSchema = z.strictObject({ id: executionIdSchema })
export const leaseRenewSchema = leaseRefSchema.pick({ token: true })
export const leaseRenewedSchema = z.object({ leaseMs: z.number().int() })

/** `POST /api/v1/nodes/:id/suspend`. */
export const suspendSchema = z.strictObject({ message: z.string().min(1).max(1024) })

/** `GET /api/v1/nodes/:id/reputation`: newest first; the cursor is the `seq` of the last one. */
export const reputationQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(LIMITS.maxPageItems.value).default(100),
  cursor: z.coerce.number().int().min(0).optional(),
})
export const reputationPageSchema = z.object({
  items: z.array(reputationEntrySchema),
  nextCursor: z.string().nullable(),
})

/** `POST /api/v1/credits`: adds to what a tenant has. */
export const creditRequestSchema = z.strictObject({
  tenant: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'is not a tenant name (a-z, 0-9, -)'),
  credits: z.number().positive().max(1_000_000_000),
})
export const creditSchema = z.object({ tenant: z.string(), balance: z.number() })

/** `GET /api/v1/jobs/:id/events`: what happened after that `seq`; `Last-Event-ID` says the same. */
export const jobEventsQuerySchema = z.strictObject({ since: z.coerce.number().int().min(0).optional() })

/** `GET /api/v1/route`: of a user, or of an instance by its id or name. */
export const routeQuerySchema = z.union([
  z.strictObject({ user: z.string().min(1).max(256) }),
  z.strictObject({ instance: z.string().min(1).max(256) }),
])
/** Which node serves it, and a bearer for that node's gateway until `expiresAt`. */
export const routeSchema = z.object({
  node: nodeIdSchema,
  url: z.string(),
  token: z.string(),
  expiresAt: z.string(),
  instance: instanceIdSchema.optional(),
})
export type Route = z.infer<typeof routeSchema>
/** `POST /api/v1/instances` of a coordinator: the instance, and how to reach it. */
export const placedInstanceSchema = z.object({ instance: instanceSchema, route: routeSchema })

/** `GET /health` of a coordinator. `degraded`: nobody writes at the moment. */
export const networkHealthSchema = z.object({
  status: z.enum(['ok', 'degraded']),
  version: z.string(),
  uptimeMs: z.number().int(),
  /** The coordinator that writes, where there is one. */
  writer: z.string().optional(),
  /** Workers whose streams end here. */
  sessions: z.number().int(),
})
