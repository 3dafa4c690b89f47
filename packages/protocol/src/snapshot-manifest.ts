import { z } from 'zod'
import { LIMITS } from './limits.ts'
import { labelsSchema, networkSchema } from './spec.ts'

/** What a snapshot is made of, as it lies in the store and in an exported file. Whatever is read there is parsed by this. */

/** The SHA-256 of a blob's content, in lower-case hex. */
export const blobHashSchema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, 'is not a SHA-256 in hex')
  .brand<'BlobHash'>()
export type BlobHash = z.infer<typeof blobHashSchema>

const size = z.number().int().min(0).max(LIMITS.maxBlobBytes.value)

/**
 * Bytes of any size, as the blobs whose pieces they are, in order. A piece without `offset` and `length` is a whole blob; with
 * them it lies in a pack, beside other small contents.
 */
export const contentSchema = z.strictObject({
  sizeBytes: size,
  /** Of all the bytes. */
  sha256: blobHashSchema,
  pieces: z
    .array(z.strictObject({ blob: blobHashSchema, sizeBytes: size, offset: size.optional(), length: size.optional() }))
    .max(1_048_576),
})
export type Content = z.infer<typeof contentSchema>

const id = z.number().int().min(0).max(4_294_967_294)
const attributes = {
  /** Permission bits with set-uid, set-gid and sticky. */
  mode: z.number().int().min(0).max(0o7777),
  /** As the sandbox sees them. */
  uid: id,
  gid: id,
  /** Nanoseconds since 1970, in decimal. */
  modifiedNs: z.string().regex(/^-?\d{1,20}$/),
  /** Extended attributes (xattr(7)): name to base64; of the `user.` and `security.capability` kinds only. */
  xattrs: z.record(z.string().max(255), z.base64().max(90_000)).optional(),
}
/** Relative to the root, without `.` and `..`. `base64` where it, or the entry's target, is no UTF-8: then both are in base64. */
const path = { path: z.string().min(1).max(8192), encoding: z.literal('base64').optional() }

/**
 * One line of a tree: what the sandbox's files are other than its image's. Lines are in the order of their paths' bytes. What a
 * directory of the image lost, or had replaced, is told by `deleted` lines; nothing hides what is below it in silence.
 */
export const treeEntrySchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('file'), ...path, ...attributes, content: contentSchema }),
  /** Another name of the file at `target` (in the form of `path`), which comes before it. */
  z.strictObject({ type: z.literal('link'), ...path, target: z.string().min(1).max(8192) }),
  z.strictObject({ type: z.literal('directory'), ...path, ...attributes }),
  z.strictObject({ type: z.literal('symlink'), ...path, ...attributes, target: z.string().min(1).max(8192) }),
  z.strictObject({ type: z.literal('fifo'), ...path, ...attributes }),
  z.strictObject({ type: z.literal('deleted'), ...path }),
])
export type TreeEntry = z.infer<typeof treeEntrySchema>

export const MANIFEST_VERSION = 1

/** What a memory image needs of the host that restores it. */
export const memoryRequirementsSchema = z.strictObject({
  /** `x64`, `arm64`: as `process.arch`. */
  architecture: z.string().max(32),
  /** The driver that took it, and the version of its images (`criu 4`). */
  runtime: z.string().max(64),
  format: z.string().max(64),
  kernel: z.string().max(128),
  /** Processor features that were there, and may be in use (`/proc/cpuinfo`). */
  cpuFeatures: z.array(z.string().max(64)).max(1024),
  /** The agent whose process is in it, by the beginning of its SHA-256: a host must have the same program. */
  agent: z
    .string()
    .regex(/^[0-9a-f]{16}$/)
    .optional(),
})

/** The manifest: the blob whose hash is the snapshot's id, as canonical JSON (RFC 8785). */
export const snapshotManifestSchema = z.strictObject({
  version: z.literal(MANIFEST_VERSION),
  kind: z.literal('bramble.snapshot'),
  /** When it was taken, RFC 3339. */
  takenAt: z.string(),
  image: z.strictObject({ digest: z.string().max(256), name: z.string().max(512).optional() }),
  /** Hash of the snapshot it was taken from. */
  parent: blobHashSchema.optional(),
  filesystem: z.strictObject({
    /** Lines of canonical JSON, one tree entry each, each ended by a newline. */
    tree: contentSchema,
    entries: z.number().int().min(0).max(LIMITS.maxSnapshotEntries.value),
    /** Of all files. */
    sizeBytes: z.number().int().min(0),
  }),
  memory: z
    .strictObject({
      requires: memoryRequirementsSchema,
      /** The files of the memory image, by name. */
      files: z.record(z.string().regex(/^[a-zA-Z0-9._-]{1,128}$/), contentSchema),
      sizeBytes: z.number().int().min(0),
      processes: z.array(z.strictObject({ pid: z.number().int(), command: z.string().max(4096) })).max(32_768),
      /** What listened. */
      ports: z.array(z.number().int().min(1).max(65_535)).max(65_535),
    })
    .optional(),
  /** What a sandbox that continues from it is made with. */
  config: z.strictObject({
    env: z.record(z.string(), z.string()),
    user: z.string().optional(),
    workdir: z.string().optional(),
    cpus: z.number(),
    memoryMb: z.number().int(),
    diskMb: z.number().int(),
    pids: z.number().int(),
    network: networkSchema,
    hostname: z.string().max(64).optional(),
  }),
  labels: labelsSchema.optional(),
})
export type SnapshotManifest = z.infer<typeof snapshotManifestSchema>
export type MemoryRequirements = z.infer<typeof memoryRequirementsSchema>

export const ARCHIVE_VERSION = 1

/** The first member of an exported file: see `docs/snapshot-format.md`. */
export const archiveHeaderSchema = z.strictObject({
  format: z.literal('bramble.archive'),
  version: z.literal(ARCHIVE_VERSION),
  /** The hash of the manifest, which is the id of the snapshot. */
  manifest: blobHashSchema,
})

/** The last one: what was between. */
export const archiveEndSchema = z.strictObject({ blobs: z.number().int(), sizeBytes: z.number().int() })
