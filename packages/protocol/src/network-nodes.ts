import { z } from 'zod'
import { pageQuerySchema } from './node-api.ts'
import { bytes32Schema, nodeIdSchema, publicKeySchema } from './receipts.ts'
import { isolationSchema, labelsSchema } from './spec.ts'

/** Nodes of a network, as they report themselves and as they are shown. */

/** What a node has and can do, found by trying and measuring; a node may lie, and placement is all that believes it. */
export const nodeReportSchema = z.strictObject({
  version: z.string().max(64),
  cpus: z.number().min(0.01).max(4096),
  memoryMb: z
    .number()
    .int()
    .min(1)
    .max(16 * 1024 * 1024),
  diskMb: z.number().int().min(0),
  /** Executions at once. */
  slots: z.number().int().min(1).max(4096),
  gpus: z
    .array(z.strictObject({ model: z.string().min(1).max(64), memoryMb: z.number().int().min(0) }))
    .max(64)
    .default([]),
  isolation: z.array(isolationSchema).max(8),
  region: z.string().min(1).max(64).optional(),
  labels: labelsSchema.default({}),
  /** Names of images with their digests; the most used first. */
  images: z
    .array(z.strictObject({ name: z.string().max(512).optional(), digest: z.string().max(80) }))
    .max(256)
    .default([]),
  /** Executions of `true` a second that it measured: how fast it is. */
  speed: z.number().min(0).max(1_000_000).default(0),
  /** Equal on all nodes of one machine: a hash of what identifies the host. */
  machine: z.string().min(1).max(64),
  /** What results may differ by: instruction set, libc, runtime. */
  platform: z.string().max(128),
  /** Where its gateway is reached, if it is. */
  url: z.url().max(512).optional(),
})
export type NodeReport = z.output<typeof nodeReportSchema>

/** `POST /api/v1/nodes/register`, signed by the node's key. */
export const nodeRegistrationSchema = z.strictObject({
  node: nodeIdSchema,
  publicKey: publicKeySchema,
  /** Of an invite; it says whose node this is. Not needed again by a node that is known. */
  token: z.string().max(256).optional(),
  name: z.string().min(1).max(64).optional(),
  report: nodeReportSchema,
})
export type NodeRegistration = z.output<typeof nodeRegistrationSchema>

/** `online`: its stream is open or its heartbeats come. `suspect`: it is silent, nothing is placed on it. */
export const nodeStatusSchema = z.enum(['online', 'suspect', 'offline', 'draining', 'drained', 'suspended'])
export type NodeStatus = z.infer<typeof nodeStatusSchema>

/** Three axes, never summed. */
export const trustSchema = z.object({
  /** 0 to 1000, beginning at 100: +5 for agreeing, -10 for disagreeing, -20 for going silent. A view, and nothing decides by it. */
  score: z.number().int(),
  /** How often its results were right: the lower 5% bound of a Beta distribution with forgetting. */
  correctness: z.number(),
  /** The same of ending in time what it took. */
  availability: z.number(),
  /** Its time for an execution in relation to others' (1 is average, more is faster). */
  speed: z.number(),
  /** Results that agreed with those of others: established from 10 on. */
  agreements: z.number().int(),
  established: z.boolean(),
  /** Executions whose verdict went against it. */
  disagreements: z.number().int(),
})
export type Trust = z.infer<typeof trustSchema>

export const networkNodeSchema = z.object({
  id: nodeIdSchema,
  name: z.string().optional(),
  owner: z.string(),
  status: nodeStatusSchema,
  /** Why it is suspended, or what its owner should know of its last fault. */
  message: z.string().optional(),
  report: nodeReportSchema.omit({ machine: true }),
  trust: trustSchema,
  running: z.number().int(),
  free: z.object({ slots: z.number(), cpus: z.number(), memoryMb: z.number() }),
  registeredAt: z.string(),
  lastSeenAt: z.string().optional(),
})
export type NetworkNode = z.infer<typeof networkNodeSchema>

export const nodesQuerySchema = pageQuerySchema.extend({
  status: nodeStatusSchema.optional(),
  label: z.string().min(1).max(513).optional(),
})
export type NodesQuery = z.output<typeof nodesQuerySchema>

export const nodeParamsSchema = z.strictObject({ id: nodeIdSchema })

/** One entry of a node's append-only record, which its reputation is folded from. */
export const reputationKindSchema = z.enum([
  'agreed',
  /** Right, but alone: it raises no trust. */
  'alone',
  'disagreed',
  /** Its result was malformed, or not what its receipt says. */
  'invalid',
  'failed',
  'timeout',
  'late',
  'silent',
  'left',
  'convicted',
])
export type ReputationKind = z.infer<typeof reputationKindSchema>
export const reputationEntrySchema = z.object({
  seq: z.number().int(),
  node: nodeIdSchema,
  kind: reputationKindSchema,
  job: z.string().optional(),
  execution: z.string().optional(),
  /** Of its execution, where it has one. */
  ms: z.number().optional(),
  /** Mean of all nodes whose results agreed with it. */
  averageMs: z.number().optional(),
  message: z.string().optional(),
  at: z.string(),
})
export type ReputationEntry = z.infer<typeof reputationEntrySchema>

/** `POST /api/v1/invites` (admin): lets nodes join as `owner`'s. */
export const inviteRequestSchema = z.strictObject({
  owner: z.string().regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'is not an owner name (a-z, 0-9, -)'),
  labels: labelsSchema.default({}),
  /** An anchor: established from the start, run by whoever runs the network. */
  anchor: z.boolean().default(false),
  ttlMs: z
    .number()
    .int()
    .min(1000)
    .max(366 * 24 * 3_600_000)
    .default(24 * 3_600_000),
  maxNodes: z.number().int().min(1).max(100_000).default(1),
})
export type InviteRequest = z.output<typeof inviteRequestSchema>
export const inviteSchema = inviteRequestSchema.extend({ token: z.string(), expiresAt: z.string() })
export type Invite = z.infer<typeof inviteSchema>

export const networkStatsSchema = z.object({
  network: z.string(),
  version: z.string(),
  /** Of the network's key, to seal inputs to and to verify tokens of routes with. */
  publicKey: publicKeySchema,
  jobs: z.record(z.string(), z.number().int()),
  nodes: z.record(z.string(), z.number().int()),
  executions: z.object({ running: z.number().int(), waiting: z.number().int() }),
  /** Executions placed for each job that ended, lately. */
  copiesPerJob: z.number(),
  verifiedPerSecond: z.number(),
  credits: z.object({ issued: z.number(), held: z.number(), earned: z.number() }),
  uptimeMs: z.number().int(),
})
export type NetworkStats = z.infer<typeof networkStatsSchema>

/** What a token of a route says; the network signs it (`signRouteToken` of identity), and the node's gateway takes it. */
export const routeClaimsSchema = z.strictObject({
  network: bytes32Schema,
  /** The one node that may take it. */
  node: nodeIdSchema,
  tenant: z.string().min(1).max(128),
  user: z.string().min(1).max(256).optional(),
  instance: z.string().min(1).max(256).optional(),
  /** Of the placement: void once the user or instance was placed elsewhere, and the node knows. */
  epoch: z.number().int().min(1).optional(),
  scopes: z.array(z.string().min(1).max(64)).max(32),
  expiresAtMs: z.number().int().min(0),
})
export type RouteClaims = z.infer<typeof routeClaimsSchema>
