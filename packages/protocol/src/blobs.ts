import { z } from 'zod'
import { LIMITS } from './limits.ts'
import { blobHashSchema } from './snapshot-manifest.ts'

/** Bodies and answers of blobs: bytes that a tenant puts, for the files of specs, or that its results left. */

/** How long a blob is kept that says nothing else. */
export const DEFAULT_BLOB_TTL_MS = 30 * 24 * 3_600_000

/** `PUT /api/v1/blobs`, whose body is the bytes. */
export const blobPutQuerySchema = z.strictObject({
  /** Other bytes are refused. */
  expect: blobHashSchema.optional(),
  ttlMs: z.coerce.number().int().min(1).max(LIMITS.maxBlobTtlMs.value).default(DEFAULT_BLOB_TTL_MS),
})
export const blobParamsSchema = z.strictObject({ hash: blobHashSchema })

export const blobSchema = z.object({
  hash: blobHashSchema,
  sizeBytes: z.number().int(),
  /** `put`: by a client; `result`: an execution left it. */
  origin: z.enum(['put', 'result']),
  createdAt: z.string(),
  /** Then the tenant has it no longer. */
  expiresAt: z.string(),
})
export type TenantBlob = z.infer<typeof blobSchema>
