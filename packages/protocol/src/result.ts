import { z } from 'zod'
import { executionIdSchema } from './ids.ts'
import { blobHashSchema } from './snapshot-manifest.ts'
import { labelsSchema, modeSchema } from './spec.ts'

export const executionStatusSchema = z.enum(['succeeded', 'failed', 'timeout', 'cancelled', 'oom', 'error'])

/** How bytes are written in JSON: UTF-8 text where they are valid UTF-8, else base64. */
export const encodingSchema = z.enum(['utf8', 'base64'])

/** A declared output: its bytes with their digest, or the blob that holds them (`outputBlobs`), or why there are none. */
export const outputFileSchema = z.union([
  z.object({ encoding: encodingSchema, content: z.string(), sizeBytes: z.number().int(), sha256: z.string() }),
  z.object({ blob: blobHashSchema, sizeBytes: z.number().int(), sha256: z.string() }),
  z.object({
    error: z.enum(['not_found', 'not_a_file', 'too_large', 'unreadable']),
    sizeBytes: z.number().int().optional(),
  }),
])

export const usageSchema = z.object({
  /** Processor time of everything in the sandbox, by the kernel's account where the runtime has one. */
  cpuMs: z.number(),
  peakMemoryBytes: z.number().int(),
  diskBytes: z.number().int(),
  egressBytes: z.number().int(),
})

export const timingsSchema = z.object({
  /** Waiting for a place on the node. */
  queuedMs: z.number(),
  /** Getting a sandbox, with its files written: near zero from a warm pool. */
  startMs: z.number(),
  execMs: z.number(),
  totalMs: z.number(),
})

/**
 * What came of an execution. A non-zero exit is a result, not an error. `exitCode` follows the shell: 126 not
 * executable, 127 not found, 128+n ended by signal n (and then `signal` names it); null where the command never ended
 * by itself. `stdout` and `stderr` hold the first `maxOutputBytes` bytes each; `truncated` says when there was more.
 */
export const executionResultSchema = z.object({
  id: executionIdSchema,
  mode: modeSchema,
  runtime: z.string(),
  image: z.string(),
  status: executionStatusSchema,
  exitCode: z.number().int().nullable(),
  signal: z.string().optional(),
  /** Why there is no exit code, where there is none, or what kept the command from starting. */
  message: z.string().optional(),
  stdout: z.string(),
  stderr: z.string(),
  encoding: encodingSchema,
  truncated: z.boolean(),
  cached: z.boolean(),
  snapshotId: z.string().optional(),
  /** When the snapshot goes, unless somebody names it or gives it another time to live. Absent: it stays. */
  snapshotExpiresAt: z.string().optional(),
  instanceId: z.string().optional(),
  outputs: z.record(z.string(), outputFileSchema),
  inputHash: z.string(),
  resultHash: z.string(),
  receipt: z.unknown().optional(),
  usage: usageSchema,
  timings: timingsSchema,
  startedAt: z.string(),
  finishedAt: z.string(),
})

export type ExecutionStatus = z.infer<typeof executionStatusSchema>
export type Encoding = z.infer<typeof encodingSchema>
export type OutputFile = z.infer<typeof outputFileSchema>
export type Usage = z.infer<typeof usageSchema>
export type Timings = z.infer<typeof timingsSchema>
export type ExecutionResult = z.infer<typeof executionResultSchema>

export const executionPhaseSchema = z.enum(['queued', 'running', ...executionStatusSchema.options])

/** An execution as `GET /api/v1/executions` shows it: a summary while it runs and after. */
export const executionRecordSchema = z.object({
  id: executionIdSchema,
  status: executionPhaseSchema,
  command: z.union([z.string(), z.array(z.string())]),
  image: z.string(),
  mode: modeSchema,
  runtime: z.string().optional(),
  labels: labelsSchema,
  exitCode: z.number().int().nullable(),
  /** Why there is no result, where it ended without one. */
  message: z.string().optional(),
  createdAt: z.string(),
  finishedAt: z.string().optional(),
  /** The whole result, once there is one; listings leave it out. */
  result: executionResultSchema.optional(),
})
export type ExecutionRecord = z.infer<typeof executionRecordSchema>
export type ExecutionPhase = z.infer<typeof executionPhaseSchema>
