import { z } from 'zod'
import { executionIdSchema, jobIdSchema } from './ids.ts'
import { type JobStatus, jobPolicySchema, jobStatusSchema } from './job-spec.ts'
import { LIMITS } from './limits.ts'
import { pageQuerySchema } from './node-api.ts'
import { nodeIdSchema, signedReceiptSchema } from './receipts.ts'
import { encodingSchema, executionStatusSchema, usageSchema } from './result.ts'
import { blobHashSchema } from './snapshot-manifest.ts'
import { labelsSchema } from './spec.ts'

/** Jobs as a network shows them. Nothing here tells of a result before the verdict: no hash, no output, no log. */

/** Bytes of a result: with it, or in a blob of the network (`GET /api/v1/blobs/:hash`); both are named by their SHA-256. */
export const resultContentSchema = z.union([
  z.strictObject({
    encoding: encodingSchema,
    content: z.string(),
    sizeBytes: z.number().int().min(0),
    sha256: blobHashSchema,
  }),
  z.strictObject({ blob: blobHashSchema, sizeBytes: z.number().int().min(0), sha256: blobHashSchema }),
])
export type ResultContent = z.infer<typeof resultContentSchema>

const outputErrorSchema = z.strictObject({ error: z.enum(['not_found', 'not_a_file', 'too_large', 'unreadable']) })

/** What came of an execution: all that its result hash is of, and nothing that differs between two nodes. */
export const jobResultSchema = z.strictObject({
  status: executionStatusSchema,
  exitCode: z.number().int().nullable(),
  signal: z.string().max(32).optional(),
  stdout: resultContentSchema,
  stderr: resultContentSchema,
  truncated: z.boolean(),
  outputs: z.record(z.string().max(LIMITS.maxPathBytes.value), z.union([resultContentSchema, outputErrorSchema])),
})
export type JobResult = z.infer<typeof jobResultSchema>

/** Why a job waits: of the nodes that are there, how many each constraint keeps from it. */
export const waitingSchema = z.object({
  /** Nodes looked at. */
  nodes: z.number().int(),
  /** Nodes that fit but are busy now. */
  busy: z.number().int(),
  /** For each constraint (`cpus`, `memory`, `gpu`, `region`, `labels`, `isolation`, `image`, `owner`, `machine`, `subnet`, `drained`, `suspended`, …), the nodes it stops; a node counts at its first. */
  stopped: z.record(z.string(), z.number().int()),
  /** One sentence of it. */
  message: z.string(),
  since: z.string(),
})
export type Waiting = z.infer<typeof waitingSchema>

/** How the verdict came about. */
export const verificationSchema = z.object({
  policy: jobPolicySchema,
  /** The rule that decided: k equal results; one proven node alone; credible enough; or none. */
  decidedBy: z.enum(['quorum', 'alone', 'audit', 'credibility']),
  agreed: z.number().int(),
  needed: z.number().int(),
  executions: z.number().int(),
  /** Probability that the result is right, by the policy's own model; of `paranoid`. */
  credibility: z.number().optional(),
  /** A lone result is verified again if its node turns out to lie, until this moment. */
  provisionalUntil: z.string().optional(),
  /** It replaced an earlier verdict whose node turned out to lie. */
  corrected: z.boolean(),
})
export type Verification = z.infer<typeof verificationSchema>

export const determinismClassSchema = z.enum(['exact', 'fuzzy', 'none'])

export const jobSchema = z.object({
  id: jobIdSchema,
  status: jobStatusSchema,
  name: z.string().optional(),
  description: z.string().optional(),
  command: z.union([z.string(), z.array(z.string())]),
  image: z.string(),
  imageDigest: z.string().optional(),
  redundancy: z.number().int(),
  consensus: z.number().int(),
  strategy: z.enum(['eager', 'lazy']),
  policy: jobPolicySchema,
  /** How results were compared. Absent: by their hashes alone. */
  comparator: z.enum(['exact', 'fuzzy']).optional(),
  priority: z.number().int(),
  deadline: z.string().optional(),
  creditsRequired: z.number().int(),
  /** Paid to owners for this job so far. */
  creditsSpent: z.number().int(),
  labels: labelsSchema,
  /** `relaxed`: executions may share an owner, a machine or a subnet, as `relaxed` lists. */
  diversity: z.enum(['strict', 'relaxed']),
  relaxed: z.array(z.string()),
  /** What a check of its determinism found, on this job or an earlier one of the same spec. */
  determinismClass: determinismClassSchema.optional(),
  createdAt: z.string(),
  startedAt: z.string().optional(),
  finishedAt: z.string().optional(),
  waiting: waitingSchema.optional(),
  verification: verificationSchema.optional(),
  /** What was agreed on; only of a job that is completed. */
  result: jobResultSchema.optional(),
  resultHash: z.string().optional(),
  inputHash: z.string().optional(),
  /** Why it failed, or why there is no consensus. */
  message: z.string().optional(),
})
export type Job = z.infer<typeof jobSchema>

export const jobExecutionStatusSchema = z.enum([
  'scheduled',
  'leased',
  'running',
  'completed',
  'failed',
  'timeout',
  'lost',
  'disagreed',
  'cancelled',
])

/** How an execution counted: `late` came after its lease or the verdict; `unneeded` was cancelled by it. */
export const validitySchema = z.enum([
  'undecided',
  'agreed',
  'disagreed',
  'inconclusive',
  'late',
  'unneeded',
  'invalid',
])
export type Validity = z.infer<typeof validitySchema>

/** One replica. Hash, receipt, usage and weight are there after the verdict only. */
export const jobExecutionSchema = z.object({
  id: executionIdSchema,
  job: jobIdSchema,
  node: nodeIdSchema,
  owner: z.string(),
  region: z.string().optional(),
  status: jobExecutionStatusSchema,
  validity: validitySchema,
  /** Why it was placed. */
  reason: z.enum(['first', 'disagreement', 'retry', 'straggler', 'audit', 'anchor', 'again']),
  token: z.number().int(),
  createdAt: z.string(),
  leasedAt: z.string().optional(),
  startedAt: z.string().optional(),
  finishedAt: z.string().optional(),
  progress: z.number().min(0).max(1).optional(),
  message: z.string().optional(),
  resultHash: z.string().optional(),
  inputHash: z.string().optional(),
  /** By its receipt. */
  usage: usageSchema.pick({ cpuMs: true, peakMemoryBytes: true }).optional(),
  /** Of its node when it counted: established or not, and how credible. */
  established: z.boolean().optional(),
  weight: z.number().optional(),
  receipt: signedReceiptSchema.optional(),
})
export type JobExecution = z.infer<typeof jobExecutionSchema>

/** `GET /api/v1/jobs/:id/receipts`: the evidence of a verdict, which anyone can check without trusting who gives it. */
export const jobEvidenceSchema = z.object({
  job: jobIdSchema,
  status: jobStatusSchema,
  network: z.string(),
  resultHash: z.string().optional(),
  verification: verificationSchema.optional(),
  receipts: z.array(
    z.object({
      validity: validitySchema,
      established: z.boolean(),
      weight: z.number(),
      publicKey: z.string(),
      owner: z.string(),
      signed: signedReceiptSchema,
    }),
  ),
})
export type JobEvidence = z.infer<typeof jobEvidenceSchema>

const at = { at: z.string(), seq: z.number().int() }

/**
 * `GET /api/v1/jobs/:id/events`: what happened, then what happens, until the job ends. Output is there for jobs whose
 * verdict has come, and at once where `consensus` is 1 and nobody is to agree with anyone.
 */
export const jobEventSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('status'), ...at, status: jobStatusSchema, message: z.string().optional() }),
  z.object({ type: z.literal('waiting'), ...at, waiting: waitingSchema }),
  z.object({
    type: z.literal('execution'),
    ...at,
    execution: executionIdSchema,
    node: nodeIdSchema,
    status: jobExecutionStatusSchema,
    reason: z.string().optional(),
    message: z.string().optional(),
  }),
  z.object({
    type: z.enum(['stdout', 'stderr']),
    ...at,
    execution: executionIdSchema,
    data: z.string(),
    encoding: encodingSchema.optional(),
  }),
  z.object({ type: z.literal('corrected'), ...at, resultHash: z.string() }),
  z.object({ type: z.literal('job'), ...at, job: jobSchema }),
])
export type JobEvent = z.infer<typeof jobEventSchema>

export const jobsQuerySchema = pageQuerySchema.extend({
  status: jobStatusSchema.optional(),
  label: z
    .string()
    .min(1)
    .max(2 * LIMITS.maxLabelChars.value + 1)
    .optional(),
})
export type JobsQuery = z.output<typeof jobsQuerySchema>

export const jobParamsSchema = z.strictObject({ id: jobIdSchema })

/** Whether nothing can happen to it any more, but that a lone result is asked again. */
export const jobHasEnded = (status: JobStatus): boolean =>
  status === 'completed' || status === 'failed' || status === 'cancelled' || status === 'no_consensus'
