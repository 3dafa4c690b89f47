import { z } from 'zod'
import { LIMITS } from './limits.ts'
import { executionSpecSchema, labelsSchema } from './spec.ts'

/** What is submitted to a network: an execution spec, and how its result is to be trusted. */

export const jobStatusSchema = z.enum([
  'pending',
  'scheduled',
  'running',
  'verifying',
  'completed',
  'failed',
  'cancelled',
  'no_consensus',
])
export type JobStatus = z.infer<typeof jobStatusSchema>

/**
 * How many nodes are asked. `quorum`: `consensus` of them must agree, always. `fast`: one that has agreed often enough
 * stands alone, unless it is audited by a draw made in secret before; else as `quorum`. `paranoid`: as many as it takes
 * until the agreeing ones are credible to `confidence`.
 */
export const jobPolicySchema = z.enum(['quorum', 'fast', 'paranoid'])

/**
 * When two results are the same. `exact`: equal result hashes. `fuzzy`: equal exit codes, and standard output that is
 * JSON with the same shape, whose numbers differ by no more than `absolute`, or `relative` of the larger one; `fields`
 * (JSON Pointers, `*` for any name or index) have tolerances of their own; `ignore` may differ freely.
 */
export const comparatorSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('exact') }),
  z.strictObject({
    type: z.literal('fuzzy'),
    absolute: z.number().min(0).default(0),
    relative: z.number().min(0).max(1).default(1e-9),
    fields: z
      .record(
        z.string().max(256),
        z.strictObject({ absolute: z.number().min(0).default(0), relative: z.number().min(0).max(1).default(0) }),
      )
      .refine((fields) => Object.keys(fields).length <= 64, 'more than 64 fields')
      .default({}),
    ignore: z.array(z.string().max(256)).max(64).default([]),
  }),
])
export type Comparator = z.output<typeof comparatorSchema>

/** What two executions of a job may never share. */
export const distinctSchema = z.enum(['owner', 'machine', 'subnet'])
export type Distinct = z.infer<typeof distinctSchema>

/** Where a job may run, beside what its resources ask for. */
export const placementSchema = z.strictObject({
  regions: z.array(z.string().min(1).max(64)).min(1).max(32).optional(),
  gpuModel: z.string().min(1).max(64).optional(),
  /** Labels that a node must have, with these values. */
  nodeLabels: labelsSchema.optional(),
  /** Default all three. What is left out may be shared, and the job then says `diversity: "relaxed"`. */
  distinct: z.array(distinctSchema).max(3).optional(),
})

/** Bytes that only the nodes of a job may read: sealed to the network's key by the client (`sealInputs` of the SDK). */
export const sealedSchema = z.strictObject({
  /** Of the sender, for this one sealing: 33 bytes in base64. */
  ephemeralKey: z.base64().max(64),
  /** AES-256-GCM: 12 bytes of nonce, the ciphertext, 16 bytes of tag; in base64. */
  ciphertext: z.base64().max(256 * 1024),
})
export type Sealed = z.infer<typeof sealedSchema>

/** What a sealed input holds once it is open; it is merged into the spec by the node. */
export const sealedInputsSchema = z.strictObject({
  env: executionSpecSchema.shape.env.optional(),
  files: executionSpecSchema.shape.files,
  stdin: executionSpecSchema.shape.stdin,
})

const jobFields = {
  name: z.string().min(1).max(128).optional(),
  description: z.string().max(4096).optional(),
  /** n: executions that may be asked for at once, and that are paid. */
  redundancy: z.number().int().min(1).max(LIMITS.maxRedundancy.value).default(3),
  /** k: executions that must agree. Default: 2, or n where that is less. */
  consensus: z.number().int().min(1).max(LIMITS.maxRedundancy.value).optional(),
  /** Higher first, within a tenant; tenants share by turns. */
  priority: z.number().int().min(0).max(100).default(50),
  /** After it the job fails, whatever has run. */
  deadline: z.iso.datetime({ offset: true }).optional(),
  /** `eager`: n executions at once. `lazy`: k, and one more at a time while they disagree. */
  strategy: z.enum(['eager', 'lazy']).default('lazy'),
  policy: jobPolicySchema.default('quorum'),
  /** Of `paranoid`: how sure the verdict must be. */
  confidence: z.number().min(0.5).max(0.99999).default(0.99),
  comparator: comparatorSchema.default({ type: 'exact' }),
  placement: placementSchema.default({}),
  /** Credits for each execution that agrees, of at most `redundancy`. Held at submission; what is not earned comes back. */
  creditsRequired: z.number().int().min(0).max(1_000_000).default(1),
  /** `profile`: a fixed time zone, locale and hash seeds. `check`: also compare two executions, and label the job by it. */
  determinism: z.enum(['profile', 'check', 'off']).default('profile'),
  sealedInputs: sealedSchema.optional(),
}

/** How the fields of other systems' jobs are called here. */
const ALIASES: Readonly<Record<string, readonly string[]>> = {
  dockerImage: ['image'],
  environment: ['env'],
  inputData: ['stdin'],
  requiredCpu: ['resources', 'cpus'],
  requiredMemory: ['resources', 'memoryMb'],
  requiredGpu: ['resources', 'gpus'],
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The same request in the names of the execution spec. A name given in both ways is left for the schema to refuse. */
const withoutAliases = (body: unknown): unknown => {
  if (!isRecord(body) || !Object.keys(ALIASES).some((name) => name in body)) return body
  const plain: Record<string, unknown> = { ...body }
  for (const [alias, [first = '', second]] of Object.entries(ALIASES)) {
    if (!(alias in plain)) continue
    const outer = second === undefined ? plain : { ...(isRecord(plain[first]) ? plain[first] : {}) }
    const name = second ?? first
    if (name in outer) continue
    const value = plain[alias]
    outer[name] = alias === 'inputData' && typeof value !== 'string' ? JSON.stringify(value) : value
    if (second !== undefined) plain[first] = outer
    delete plain[alias]
  }
  return plain
}

/** The submission as a form that documents can show: every field in its own name. */
export const jobFormSchema = executionSpecSchema.safeExtend(jobFields)

/**
 * `POST /api/v1/jobs`: the fields of an execution spec and those of a job in one object. `dockerImage`, `environment`,
 * `inputData` (text, or JSON), `requiredCpu`, `requiredMemory` (MiB) and `requiredGpu` stand for fields of the spec.
 */
export const jobRequestSchema = z.preprocess(withoutAliases, jobFormSchema).transform((form, context) => {
  const {
    name,
    description,
    redundancy,
    consensus: asked,
    priority,
    deadline,
    strategy,
    policy,
    confidence,
    comparator,
    placement,
    creditsRequired,
    determinism,
    sealedInputs,
    ...spec
  } = form
  const consensus = asked ?? Math.min(2, redundancy)
  const refuse = (path: string, message: string) => context.addIssue({ code: 'custom', path: [path], message })
  if (consensus > redundancy) refuse('consensus', `is more than \`redundancy\` (${redundancy})`)
  if (spec.mode !== 'ephemeral' && spec.mode !== 'cached') refuse('mode', 'a job is `ephemeral` or `cached`')
  if ((spec.volumes?.length ?? 0) + (spec.caches?.length ?? 0) > 0)
    refuse('volumes', 'belong to a node: a job has none')
  if (spec.checkpoint !== undefined || spec.parent !== undefined) refuse('checkpoint', 'a job begins with an image')
  return {
    spec,
    redundancy,
    consensus,
    priority,
    strategy,
    policy,
    confidence,
    comparator,
    placement,
    creditsRequired,
    determinism,
    ...(name !== undefined && { name }),
    ...(description !== undefined && { description }),
    ...(deadline !== undefined && { deadline }),
    ...(sealedInputs !== undefined && { sealedInputs }),
  }
})
/** As a client writes it. */
export type JobRequestInput = z.input<typeof jobFormSchema>
/** After parsing: every default filled in, the spec apart. */
export type JobRequest = z.output<typeof jobRequestSchema>
