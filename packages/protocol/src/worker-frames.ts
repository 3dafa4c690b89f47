import { z } from 'zod'
import { problemSchema } from './errors.ts'
import { executionIdSchema, jobIdSchema } from './ids.ts'
import { sealedSchema } from './job-spec.ts'
import { jobResultSchema } from './jobs.ts'
import { LIMITS } from './limits.ts'
import { nodeReportSchema } from './network-nodes.ts'
import { bytes32Schema, nodeIdSchema, publicKeySchema, signatureSchema, signedReceiptSchema } from './receipts.ts'
import { encodingSchema } from './result.ts'
import { executionSpecSchema } from './spec.ts'

/**
 * What a worker and its coordinator say to each other on `WS /api/v1/nodes/:id/session`, one JSON message a frame; the
 * same items travel by long poll (`pending-jobs`) and `POST /api/v1/worker/result` where there is no stream.
 *
 * The coordinator begins with `challenge`; the worker answers `hello`, signed over the challenge, so that no recorded
 * one can be played again; then comes `welcome`, which says what of the worker's executions it is to go on with. Each
 * frame after that begins with a code of 22 characters (HMAC-SHA-256, 16 bytes in base64url) over the direction, the
 * frame's number and its text, under a key that only the two can derive (`identity`): frames cannot be made, changed,
 * repeated or left out on the way.
 *
 * A lease is an execution with a fencing token. It is the worker's until `untilMs`, and longer with each `renewed`; all
 * that is said of it carries the token. What comes with a token that is no longer valid is answered `lease_lost`,
 * recorded, and not counted. Results are sent until they are acknowledged: sending one again is harmless.
 */

const lease = { execution: executionIdSchema, token: z.number().int().min(1) }
export const leaseRefSchema = z.strictObject(lease)
export type LeaseRef = z.infer<typeof leaseRefSchema>

/** An execution that a worker is to run. Times are durations, since clocks differ. */
export const leaseSchema = z.strictObject({
  ...lease,
  job: jobIdSchema,
  /** With the image by digest where the network knows it. */
  spec: executionSpecSchema,
  /** How long it is the worker's from now on, unless it is renewed. */
  leaseMs: z.number().int(),
  /** Sealed to this node's key. */
  sealedInputs: sealedSchema.optional(),
})
export type Lease = z.output<typeof leaseSchema>

/** A result on its way: the receipt, and what it is of. */
export const commitSchema = z.strictObject({
  ...lease,
  receipt: signedReceiptSchema,
  result: jobResultSchema,
})
export type Commit = z.infer<typeof commitSchema>

/** An execution that has no result: the node could not run it. */
export const failureSchema = z.strictObject({
  ...lease,
  code: z.string().max(64),
  message: z.string().max(1024),
})
export type Failure = z.infer<typeof failureSchema>

const progress = z.strictObject({ ...lease, progress: z.number().min(0).max(1).optional() })

const items = <T extends z.ZodType>(item: T) => z.array(item).max(LIMITS.maxLeases.value)

/** What a worker says. */
export const workerFrameSchema = z.discriminatedUnion('type', [
  /** Alive, and at work on these: their leases are renewed. Also after each `heartbeatMs` without another frame. */
  z.strictObject({ type: z.literal('beat'), running: items(progress) }),
  z.strictObject({ type: z.literal('started'), items: items(leaseRefSchema) }),
  z.strictObject({
    type: z.literal('output'),
    ...lease,
    stream: z.enum(['stdout', 'stderr']),
    data: z.string().max(256 * 1024),
    encoding: encodingSchema.optional(),
  }),
  z.strictObject({ type: z.literal('commit'), items: items(commitSchema) }),
  z.strictObject({ type: z.literal('failed'), items: items(failureSchema) }),
  z.strictObject({ type: z.literal('report'), report: nodeReportSchema }),
  /** Takes nothing new; the session may be closed when nothing is left running. */
  z.strictObject({ type: z.literal('drain') }),
  /** The answer to a `request`. */
  z.strictObject({
    type: z.literal('reply'),
    id: z.number().int(),
    value: z.unknown().optional(),
    error: problemSchema.optional(),
  }),
])
export type WorkerFrame = z.output<typeof workerFrameSchema>

/** What a coordinator says once the session stands. */
export const coordinatorFrameSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('lease'), items: items(leaseSchema) }),
  z.strictObject({ type: z.literal('renewed'), items: items(leaseRefSchema), leaseMs: z.number().int() }),
  z.strictObject({ type: z.literal('cancel'), items: items(leaseRefSchema.extend({ reason: z.string() })) }),
  /** Of `commit` and `failed`, item by item: taken, or why not. */
  z.strictObject({
    type: z.literal('ack'),
    items: items(leaseRefSchema.extend({ error: problemSchema.optional() })),
  }),
  /** Asks the node for something that is no execution: `instances.start`, `instances.restore`, … */
  z.strictObject({ type: z.literal('request'), id: z.number().int(), method: z.string(), params: z.unknown() }),
  /** The session ends: come back after `retryAfterMs`, or not at all where it is absent. */
  z.strictObject({ type: z.literal('bye'), error: problemSchema, retryAfterMs: z.number().int().optional() }),
])
export type CoordinatorFrame = z.output<typeof coordinatorFrameSchema>

export const challengeSchema = z.strictObject({
  type: z.literal('challenge'),
  version: z.literal(1),
  /** 32 random bytes. */
  nonce: bytes32Schema,
  network: bytes32Schema,
  /** The network's key; a worker that knows another one of this network refuses. */
  publicKey: publicKeySchema,
  serverTimeMs: z.number().int(),
})
export type Challenge = z.infer<typeof challengeSchema>

export const helloSchema = z.strictObject({
  type: z.literal('hello'),
  version: z.literal(1),
  node: nodeIdSchema,
  /** A key for this session only, by which the codes of its frames are agreed on. */
  sessionKey: publicKeySchema,
  report: nodeReportSchema,
  /** What it holds from an earlier session. */
  running: items(leaseRefSchema),
  /** Over the challenge's nonce, the network, and all the rest of this (`helloDigest` of identity). */
  signature: signatureSchema,
})
export type Hello = z.output<typeof helloSchema>

export const welcomeSchema = z.strictObject({
  type: z.literal('welcome'),
  session: z.string(),
  heartbeatMs: z.number().int(),
  leaseMs: z.number().int(),
  /** Of `running`: go on with these; stop all others. */
  keep: items(leaseRefSchema),
})
export type Welcome = z.infer<typeof welcomeSchema>

/** `POST /api/v1/worker/result`. */
export const workerResultSchema = z.strictObject({
  commits: z.array(commitSchema).max(256).default([]),
  failures: z.array(failureSchema).max(256).default([]),
})
