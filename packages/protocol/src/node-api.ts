import { z } from 'zod'
import { problemSchema } from './errors.ts'
import { executionEventSchema } from './events.ts'
import { batchIdSchema, executionIdSchema, keyIdSchema } from './ids.ts'
import { LIMITS } from './limits.ts'
import { executionPhaseSchema, executionResultSchema } from './result.ts'
import { executionSpecSchema, resourcesSchema, runtimeChoiceSchema } from './spec.ts'

/** Bodies and answers of one node's API (`docs/api.md`); the SDK and the gateway share them. */

export const pageSchema = <T extends z.ZodType>(item: T) =>
  z.object({ items: z.array(item), nextCursor: z.string().nullable() })

/** The query of a list: numbers arrive as text. `cursor` is the `nextCursor` of the page before. */
export const pageQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(LIMITS.maxPageItems.value).default(50),
  cursor: z.string().min(1).max(256).optional(),
})
export type PageQuery = z.output<typeof pageQuerySchema>

/** `GET /api/v1/executions`. `label` is `name=value`, or `name` for any value. */
export const executionsQuerySchema = pageQuerySchema.extend({
  status: executionPhaseSchema.optional(),
  label: z
    .string()
    .min(1)
    .max(2 * LIMITS.maxLabelChars.value + 1)
    .optional(),
})

/** `GET /api/v1/executions/:id/logs`. `follow=false`: what is kept by now, and no waiting for more. */
export const logsQuerySchema = z.strictObject({
  follow: z
    .enum(['true', 'false'])
    .default('true')
    .transform((text) => text === 'true'),
})

export const executionParamsSchema = z.strictObject({ id: executionIdSchema })

export const batchRequestSchema = z.strictObject({
  items: z.array(executionSpecSchema).min(1).max(LIMITS.maxBatchItems.value),
  /** `all` and `map` answer with every result in order; `race` with the first to succeed, the others cancelled. */
  strategy: z.enum(['all', 'race', 'map']).default('all'),
  maxConcurrency: z.number().int().min(1).max(LIMITS.maxBatchConcurrency.value).default(8),
})
export type BatchRequest = z.output<typeof batchRequestSchema>
export type BatchRequestInput = z.input<typeof batchRequestSchema>

export const batchItemResultSchema = z.union([
  z.object({ index: z.number().int(), result: executionResultSchema }),
  z.object({ index: z.number().int(), error: problemSchema }),
])
export const batchResponseSchema = z.object({
  id: batchIdSchema,
  strategy: z.enum(['all', 'race', 'map']),
  /** The index of the first to succeed, in a race that had one. */
  winner: z.number().int().optional(),
  items: z.array(batchItemResultSchema),
})
export type BatchItemResult = z.infer<typeof batchItemResultSchema>
export type BatchResponse = z.infer<typeof batchResponseSchema>

/** Events of a streamed batch: an execution's own, with the index of its item. The SSE event's name is the inner type. */
export const batchEventSchema = z.object({ index: z.number().int(), event: executionEventSchema })
/** The last event of a streamed batch, named `batch`: the results went by before it. */
export const batchEndSchema = batchResponseSchema
  .omit({ items: true })
  .extend({ succeeded: z.number().int(), failed: z.number().int() })
export type BatchEnd = z.infer<typeof batchEndSchema>

export const imageSchema = z.object({
  /** `sha256:` and the digest of the image's manifest. */
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  /** Names that lead to it on this node. */
  names: z.array(z.string()),
  source: z.string(),
  sizeBytes: z.number().int(),
  createdAt: z.string(),
  config: z.object({
    env: z.record(z.string(), z.string()),
    workdir: z.string(),
    user: z.string(),
  }),
})
export type Image = z.infer<typeof imageSchema>

/** What users see of an image that a host knows more of: not where it lies there. */
export const imageView = ({ digest, names, source, sizeBytes, createdAt, config }: Image): Image => ({
  digest,
  names,
  source,
  sizeBytes,
  createdAt,
  config,
})

const imageName = z
  .string()
  .regex(/^[a-z0-9]([a-z0-9._/-]{0,126}[a-z0-9])?(:[A-Za-z0-9._-]{1,127})?$/, 'is not an image name')

/** `POST /api/v1/images`. Paths are of the node's host, so they need a key with the scope `admin`. */
export const imageImportSchema = z.union([
  z.strictObject({
    reference: z.string().min(1).max(512),
    name: imageName.optional(),
    insecure: z.boolean().default(false),
  }),
  z.strictObject({ ociArchive: z.string().min(1), name: imageName.optional() }),
  z.strictObject({ ociLayout: z.string().min(1), name: imageName.optional() }),
  z.strictObject({ rootfsTar: z.string().min(1), name: imageName }),
  z.strictObject({ dockerImage: z.string().min(1).max(512), name: imageName.optional() }),
])
export type ImageImport = z.output<typeof imageImportSchema>

/** The query of `POST /api/v1/images` with an archive as its body. A rootfs has no name of its own, so it needs one. */
export const imageUploadQuerySchema = z.strictObject({
  format: z.enum(['rootfsTar', 'ociArchive']).default('rootfsTar'),
  name: imageName.optional(),
})
export type ImageUploadQuery = z.output<typeof imageUploadQuerySchema>

/** Events of a streamed import: any number of `progress`, then `image` or `error`. */
export const imageImportEventSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('progress'),
    phase: z.enum(['upload', 'copy', 'unpack', 'commit']),
    message: z.string(),
    /** Of the phase; absent where it cannot be known. */
    fraction: z.number().min(0).max(1).optional(),
  }),
  z.object({ type: z.literal('image'), image: imageSchema }),
  z.object({ type: z.literal('error'), error: problemSchema }),
])
export type ImageImportEvent = z.infer<typeof imageImportEventSchema>

export const imageParamsSchema = z.strictObject({ digest: imageSchema.shape.digest })

export const prewarmSchema = z.strictObject({
  image: z.string().min(1).max(512).default('base'),
  count: z.number().int().min(0).max(LIMITS.maxPrewarmCount.value),
  runtime: runtimeChoiceSchema.default('auto'),
  resources: resourcesSchema.default(() => resourcesSchema.parse({})),
})
export type PrewarmRequest = z.output<typeof prewarmSchema>

export const poolSchema = z.object({
  image: z.string(),
  runtime: z.string(),
  resources: z.object({ cpus: z.number(), memoryMb: z.number(), diskMb: z.number(), pids: z.number() }),
  /** Sandboxes started, connected and waiting. */
  ready: z.number().int(),
  /** Sandboxes being made. */
  starting: z.number().int(),
  /** How many the pool keeps, by recent demand or by request. */
  target: z.number().int(),
  /** How many were asked for with `prewarm`. */
  floor: z.number().int(),
  hits: z.number().int(),
  misses: z.number().int(),
})
export type Pool = z.infer<typeof poolSchema>

export const scopeSchema = z.enum(['execute', 'read', 'admin'])

export const quotaSchema = z.strictObject({
  concurrentSandboxes: z.number().int().min(1).optional(),
  cpus: z.number().min(0.01).optional(),
  memoryMb: z.number().int().min(1).optional(),
  /** What its snapshots may take in the store, after compression; and as much again its blobs. */
  storageMb: z.number().int().min(1).optional(),
  requestsPerSecond: z.number().min(0.01).optional(),
})

export const keyRequestSchema = z.strictObject({
  name: z.string().min(1).max(128),
  tenant: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]{0,62}$/, 'is not a tenant name (a-z, 0-9, -)')
    .default('default'),
  scopes: z.array(scopeSchema).min(1).default(['execute', 'read']),
  quota: quotaSchema.default({}),
})

export const keyParamsSchema = z.strictObject({ id: keyIdSchema })

export const keySchema = z.object({
  id: keyIdSchema,
  name: z.string(),
  tenant: z.string(),
  scopes: z.array(scopeSchema),
  quota: quotaSchema,
  createdAt: z.string(),
  lastUsedAt: z.string().nullable(),
})
/** The only answer that holds the key itself: only its hash is kept. */
export const newKeySchema = keySchema.extend({ key: z.string() })
export type Scope = z.infer<typeof scopeSchema>
export type Quota = z.infer<typeof quotaSchema>
export type KeyRequest = z.output<typeof keyRequestSchema>
export type ApiKey = z.infer<typeof keySchema>
export type NewApiKey = z.infer<typeof newKeySchema>

export const usageRowSchema = z.object({
  tenant: z.string(),
  keyId: z.string(),
  executions: z.number().int(),
  cpuSeconds: z.number(),
  memoryGbSeconds: z.number(),
  storageBytes: z.number().int(),
  egressBytes: z.number().int(),
})
/** `GET /api/v1/usage`. Default: the last 30 days of the caller's tenant; only an admin key may name another. */
export const usageQuerySchema = z.strictObject({
  since: z.iso.datetime({ offset: true }).optional(),
  until: z.iso.datetime({ offset: true }).optional(),
  tenant: z.string().min(1).max(63).optional(),
})
export const usageResponseSchema = z.object({ since: z.string(), until: z.string(), items: z.array(usageRowSchema) })
export type UsageRow = z.infer<typeof usageRowSchema>

export const healthSchema = z.object({
  status: z.enum(['ok', 'degraded']),
  version: z.string(),
  uptimeMs: z.number().int(),
  runtimes: z.array(z.object({ name: z.string(), available: z.boolean(), reason: z.string().optional() })),
})

/** `GET /ready`: 200 with this while the node takes work, else the problem `shutting_down`. */
export const readySchema = z.object({ status: z.literal('ready') })
