import { z } from 'zod'
import { executionIdSchema, instanceIdSchema } from './ids.ts'
import { execResultSchema, instanceNameSchema, instanceRefSchema, instanceSchema } from './instances.ts'
import { LIMITS } from './limits.ts'
import { pageQuerySchema } from './node-api.ts'
import { blobHashSchema, memoryRequirementsSchema } from './snapshot-manifest.ts'
import { argumentSchema, environmentSchema, executionSpecSchema, labelsSchema, networkSchema } from './spec.ts'

/** Bodies and answers of snapshots, branches and merges. */

/** A snapshot's name, of the tenant: the newest snapshot with it is meant. */
export const snapshotNameSchema = z
  .string()
  .regex(
    /^[a-zA-Z][a-zA-Z0-9._-]{0,127}$/,
    'is not a snapshot name (letters, digits, ., _, -; it begins with a letter)',
  )

/** A snapshot by its hash, by the first 8 or more characters of it, or by its name. */
export const snapshotRefSchema = z
  .string()
  .regex(
    /^(?:[0-9a-f]{8,64}|[a-zA-Z][a-zA-Z0-9._-]{0,127})$/,
    'is neither the hash of a snapshot, 8 or more characters of one, nor a name',
  )
export const snapshotParamsSchema = z.strictObject({ id: snapshotRefSchema })
export const snapshotDiffParamsSchema = z.strictObject({ id: snapshotRefSchema, other: snapshotRefSchema })

const ttl = z.number().int().min(1).max(LIMITS.maxInstanceTtlMs.value)

/** `POST /api/v1/snapshots`, and `POST …/instances/:id/snapshot` without `instanceId`. */
export const snapshotRequestSchema = z.strictObject({
  instanceId: instanceRefSchema,
  name: snapshotNameSchema.optional(),
  /** `true`: with memory, or `unsupported`/`checkpoint_refused`. `false`: files alone. Absent: with memory where that works. */
  memory: z.boolean().optional(),
  labels: labelsSchema.default({}),
  /** It is removed so long after it was taken. Absent: when someone removes it. */
  ttlMs: ttl.optional(),
})
export const instanceSnapshotRequestSchema = snapshotRequestSchema.omit({ instanceId: true })
export type SnapshotRequest = z.output<typeof instanceSnapshotRequestSchema>
export type SnapshotRequestInput = z.input<typeof instanceSnapshotRequestSchema>

export const snapshotOriginSchema = z.enum(['instance', 'execution', 'merge', 'import'])
export type SnapshotOrigin = z.infer<typeof snapshotOriginSchema>

export const snapshotSchema = z.object({
  /** The hash of its manifest. */
  id: blobHashSchema,
  name: z.string().optional(),
  tenant: z.string(),
  createdAt: z.string(),
  expiresAt: z.string().nullable(),
  origin: snapshotOriginSchema,
  /** What it was taken of: an instance, an execution. Of a merge: the instance that its branches were made from. */
  source: z.string().optional(),
  parent: blobHashSchema.optional(),
  image: z.string(),
  imageDigest: z.string(),
  /** Files that are other than the image's, and their bytes. */
  entries: z.number().int(),
  filesBytes: z.number().int(),
  memory: z
    .object({
      sizeBytes: z.number().int(),
      processes: z.array(z.object({ pid: z.number().int(), command: z.string() })),
      ports: z.array(z.number().int()),
      requires: memoryRequirementsSchema,
      /** False: it came from outside, and is not run until someone with the right to says so. */
      trusted: z.boolean(),
    })
    .optional(),
  /** What it added to the store when it was taken, after compression. */
  addedBytes: z.number().int(),
  /** How long the sandbox stood still for it. */
  frozenMs: z.number().optional(),
  labels: labelsSchema,
  /** Whether it is in the lower tier too: `local` where there is none, or not yet. */
  stored: z.enum(['local', 'shared']),
})
export type Snapshot = z.infer<typeof snapshotSchema>

export const snapshotsQuerySchema = pageQuerySchema.extend({
  name: snapshotNameSchema.optional(),
  /** Taken of this instance or execution. */
  source: z.string().max(64).optional(),
  label: z
    .string()
    .min(1)
    .max(2 * LIMITS.maxLabelChars.value + 1)
    .optional(),
})

/** `PATCH …/:id`. `null` takes away. */
export const snapshotChangeSchema = z.strictObject({
  name: snapshotNameSchema.nullable().optional(),
  labels: labelsSchema.optional(),
  ttlMs: ttl.nullable().optional(),
})
export type SnapshotChange = z.output<typeof snapshotChangeSchema>

/** `POST …/:id/restore`: an instance that continues from it. */
export const restoreRequestSchema = z.strictObject({
  name: instanceNameSchema.optional(),
  /** As in `snapshotRequestSchema`: absent, its processes go on where the snapshot has them and this node can. */
  memory: z.boolean().optional(),
  env: environmentSchema,
  network: networkSchema.optional(),
  ttlMs: ttl.optional(),
  idleTtlMs: ttl.optional(),
  labels: labelsSchema.default({}),
})
export type RestoreRequest = z.output<typeof restoreRequestSchema>
export type RestoreRequestInput = z.input<typeof restoreRequestSchema>

const flag = z.enum(['true', 'false']).transform((text) => text === 'true')
/** `GET …/:id/export`. `memory=false`: the files alone. */
export const snapshotExportQuerySchema = z.strictObject({ memory: flag.default(true) })
/** `POST …/import`. `trustMemory=true`: what it has of processes may be run; for keys with the scope `admin`. */
export const snapshotImportQuerySchema = z.strictObject({
  name: snapshotNameSchema.optional(),
  trustMemory: flag.default(false),
})

/** `GET …/:id/diff/:other`, from `:id` to `:other`. */
export const diffEntrySchema = z.object({
  path: z.string(),
  encoding: z.literal('base64').optional(),
  change: z.enum(['added', 'changed', 'removed']),
  /** What it is now; of what was removed, what it was. */
  type: z.enum(['file', 'directory', 'symlink', 'fifo', 'other']),
  beforeBytes: z.number().int().optional(),
  afterBytes: z.number().int().optional(),
  /** Only owner, mode, time or attributes. */
  attributesOnly: z.boolean().optional(),
})
export type DiffEntry = z.infer<typeof diffEntrySchema>
export const snapshotDiffSchema = z.object({
  from: blobHashSchema,
  to: blobHashSchema,
  items: z.array(diffEntrySchema),
  /** There were more than `maxDiffEntries`; the totals count them. */
  truncated: z.boolean(),
  totals: z.object({
    added: z.number().int(),
    changed: z.number().int(),
    removed: z.number().int(),
    addedBytes: z.number().int(),
    removedBytes: z.number().int(),
  }),
})
export type SnapshotDiff = z.infer<typeof snapshotDiffSchema>

/** What can be continued from: an instance, a snapshot, or an execution that left either. */
export const stateRefSchema = z.union([instanceIdSchema, executionIdSchema, snapshotRefSchema, instanceNameSchema])

const branchWishes = {
  count: z.number().int().min(1).max(LIMITS.maxBranches.value).optional(),
  /** One branch each; its command runs there, and the answer waits for all of them. */
  commands: z.array(argumentSchema).min(1).max(LIMITS.maxBranches.value).optional(),
  memory: z.boolean().optional(),
  env: environmentSchema,
  network: networkSchema.optional(),
  ttlMs: ttl.optional(),
  idleTtlMs: ttl.optional(),
  labels: labelsSchema.default({}),
}
const oneOfBoth = ({ count, commands }: { count?: unknown; commands?: unknown }): boolean =>
  (count === undefined) !== (commands === undefined)

/** `POST /api/v1/branches`. Exactly one of `count` and `commands`. */
export const branchesRequestSchema = z
  .strictObject({ parent: stateRefSchema, ...branchWishes })
  .refine(oneOfBoth, 'give either count or commands')
/** `POST …/instances/:id/branch`: the instance is the parent. */
export const instanceBranchRequestSchema = z
  .strictObject(branchWishes)
  .refine(oneOfBoth, 'give either count or commands')
export type BranchesRequest = z.output<typeof branchesRequestSchema>
export type BranchesRequestInput = z.input<typeof branchesRequestSchema>

/** `POST /api/v1/fork`: an execution that begins in `parent`'s state, which goes on undisturbed. Its mode is `branched`. */
export const forkRequestSchema = executionSpecSchema
  .refine(({ parent }) => parent !== undefined, { path: ['parent'], message: 'is what to branch from' })
  .refine(({ mode }) => mode === 'ephemeral' || mode === 'branched', { path: ['mode'], message: 'is `branched` here' })

/** A branch: an instance that continued from another's state. */
export const branchSchema = z.object({
  instanceId: instanceIdSchema,
  /** What it was made from, as an id. */
  parent: z.string(),
  parentKind: z.enum(['instance', 'snapshot']),
  createdAt: z.string(),
  memory: z.boolean(),
  /** Absent when it is not there any more. */
  instance: instanceSchema.optional(),
  /** Of its command. */
  result: execResultSchema.optional(),
})
export type Branch = z.infer<typeof branchSchema>
/** `frozenMs`: how long the parent stood still for them. */
export const branchesResponseSchema = z.object({ items: z.array(branchSchema), frozenMs: z.number().optional() })
export type BranchesResponse = z.infer<typeof branchesResponseSchema>
/** `GET /api/v1/branches`: of `parent` and what descends from it, or all of the tenant. */
export const branchesQuerySchema = pageQuerySchema.extend({ parent: z.string().max(128).optional() })

export const mergeStrategySchema = z.enum(['fail', 'ours', 'theirs', 'union'])
export type MergeStrategy = z.infer<typeof mergeStrategySchema>

/** `POST /api/v1/merge`. `ours` is the first of `branches`. */
export const mergeRequestSchema = z.strictObject({
  branches: z.array(stateRefSchema).min(1).max(LIMITS.maxMergeBranches.value),
  /** What they began from; found by their parents where it is absent. */
  base: stateRefSchema.optional(),
  strategy: mergeStrategySchema.default('fail'),
  name: snapshotNameSchema.optional(),
  labels: labelsSchema.default({}),
})
export type MergeRequest = z.output<typeof mergeRequestSchema>
export type MergeRequestInput = z.input<typeof mergeRequestSchema>

export const mergeConflictSchema = z.object({
  path: z.string(),
  encoding: z.literal('base64').optional(),
  /** `content`: both changed the bytes; `deleted`: one removed what the other changed; `type`: a file here, a directory there; `attributes`: owner or mode. */
  kind: z.enum(['content', 'deleted', 'type', 'attributes']),
  /** The branches that do not agree, as they were named in the request. */
  branches: z.array(z.string()),
  /** Lines of the base where both changed a text, from 1. `to` is `from - 1` where both put something in before `from`. */
  lines: z.array(z.object({ from: z.number().int(), to: z.number().int() })).optional(),
  /** How it was settled; absent with `fail`. */
  settled: z.enum(['ours', 'theirs', 'union']).optional(),
})
export type MergeConflict = z.infer<typeof mergeConflictSchema>

export const mergeResponseSchema = z.object({
  /** Absent: there were conflicts, and the strategy is `fail`. */
  snapshot: snapshotSchema.optional(),
  /** What they were compared with: a snapshot, the instance that they were made from as it was then, or an image's digest. */
  base: z.string(),
  conflicts: z.array(mergeConflictSchema),
  truncated: z.boolean(),
  totals: z.object({
    /** Paths taken from one branch alone. */
    taken: z.number().int(),
    /** Files merged by lines. */
    merged: z.number().int(),
    conflicts: z.number().int(),
  }),
})
export type MergeResponse = z.infer<typeof mergeResponseSchema>

/** `DELETE /api/v1/cache`: results to forget; more than one condition: all of them hold. At least one, or `all`. */
export const cacheInvalidationSchema = z
  .strictObject({
    /** Its input hash. */
    key: blobHashSchema.optional(),
    image: z.string().min(1).max(512).optional(),
    /** `name=value`, or `name`. */
    label: z.string().min(1).optional(),
    all: z.literal(true).optional(),
  })
  .refine((one) => Object.keys(one).length > 0, 'name what to forget: key, image, label, or all')
export type CacheInvalidation = z.output<typeof cacheInvalidationSchema>
/** How many results the node knew, in memory and in its store. */
export const cacheInvalidationAnswerSchema = z.object({ forgotten: z.number().int() })
export const cacheStatsSchema = z.object({
  entries: z.number().int(),
  sizeBytes: z.number().int(),
  hits: z.number().int(),
  misses: z.number().int(),
  /** Hits that another node's result gave. */
  sharedHits: z.number().int(),
  /** Executions that waited for an equal one. */
  joined: z.number().int(),
})
export type CacheStats = z.infer<typeof cacheStatsSchema>
export const storeStatsSchema = z.object({
  blobs: z.number().int(),
  /** Of their content, where the store counts it; `storedBytes` is after compression. */
  sizeBytes: z.number().int().optional(),
  storedBytes: z.number().int(),
  maxBytes: z.number().int().nullable(),
  /** Waiting to go to the lower tier. */
  pendingUploads: z.number().int(),
  pendingBytes: z.number().int(),
  /** Of the lower tier, `undefined` where there is none. */
  lowerTier: z.object({ url: z.string(), available: z.boolean(), reason: z.string().optional() }).optional(),
})
export type StoreStats = z.infer<typeof storeStatsSchema>

/** What was put so lately may be on its way into something. */
const MIN_COLLECT_GRACE_MS = 60_000
/** `POST /api/v1/store/collect`: what was put, or used, within `graceMs` stays (1 h where it does not say). */
export const storeCollectQuerySchema = z.strictObject({
  graceMs: z.coerce.number().int().min(MIN_COLLECT_GRACE_MS).max(LIMITS.maxBlobTtlMs.value).optional(),
})

/** What it removed. */
export const storeCollectionSchema = z.object({
  blobs: z.number().int(),
  storedBytes: z.number().int(),
  seals: z.number().int(),
})
export type StoreCollection = z.infer<typeof storeCollectionSchema>
