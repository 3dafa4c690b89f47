import { z } from 'zod'
import { problemSchema } from './errors.ts'
import { instanceIdSchema, sshKeyIdSchema } from './ids.ts'
import { LIMITS } from './limits.ts'
import { pageQuerySchema } from './node-api.ts'
import { encodingSchema } from './result.ts'
import {
  argumentSchema,
  cacheNameSchema,
  environmentSchema,
  isolationSchema,
  labelsSchema,
  networkSchema,
  pathSchema,
  resourcesSchema,
  runtimeChoiceSchema,
  userSchema,
  volumeMountSchema,
} from './spec.ts'

/** Bodies and answers of instances: sandboxes that outlive one command. */

/** A name of the tenant's own for an instance, used wherever its id may be: also as the user of SSH and in host names. */
export const instanceNameSchema = z
  .string()
  .regex(
    /^(?!ins[-_])[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?$/,
    'is not an instance name (a-z, 0-9, -; it begins with a letter)',
  )

const ttl = z.number().int().min(1).max(LIMITS.maxInstanceTtlMs.value)

/** What to do with an instance that nobody used for `idleTtlMs`. */
export const idleActionSchema = z.enum(['pause', 'stop', 'delete'])

/** `POST /api/v1/instances`. Everything has a default. */
export const instanceSpecSchema = z.strictObject({
  name: instanceNameSchema.optional(),
  image: z.string().min(1).max(512).default('base'),
  runtime: runtimeChoiceSchema.default('auto'),
  isolation: isolationSchema.optional(),
  /** Of every command of the instance, below what the command itself says. */
  env: environmentSchema,
  workdir: pathSchema.optional(),
  user: userSchema.optional(),
  /** `timeoutMs` and `maxOutputBytes` are the defaults of its `exec`. */
  resources: resourcesSchema.default(() => resourcesSchema.parse({})),
  network: networkSchema.default('none'),
  volumes: z.array(volumeMountSchema).max(LIMITS.maxVolumes.value).default([]),
  caches: z.array(cacheNameSchema).max(8).default([]),
  /** How long it lives from its creation, or from the last `extend`; then it is deleted. Absent: until someone deletes it. */
  ttlMs: ttl.optional(),
  /** How long nobody may use it: no request, no connection, no command running. */
  idleTtlMs: ttl.optional(),
  idleAction: idleActionSchema.default('pause'),
  /** A request to a paused instance resumes it. */
  autoResume: z.boolean().default(true),
  /** Run once in the background when the instance starts, each time: a server, say. */
  command: z.union([argumentSchema, z.array(argumentSchema).min(1).max(4096)]).optional(),
  labels: labelsSchema.default({}),
  /** The snapshot whose files it begins with, by hash or name; `restore` of snapshots continues processes, too. */
  snapshot: z.string().min(1).max(128).optional(),
})
export type InstanceSpecInput = z.input<typeof instanceSpecSchema>
export type InstanceSpec = z.output<typeof instanceSpecSchema>

/**
 * `starting -> running <-> paused`, `running | paused -> stopping -> stopped -> starting`. `stopped`: no processes, the
 * files kept. A deleted instance is not there any more.
 */
export const instanceStatusSchema = z.enum(['starting', 'running', 'paused', 'stopping', 'stopped'])
export type InstanceStatus = z.infer<typeof instanceStatusSchema>

export const exposedPortSchema = z.object({
  port: z.number().int(),
  visibility: z.enum(['private', 'public']),
  url: z.string(),
})

export const instanceSchema = z.object({
  id: instanceIdSchema,
  name: z.string().optional(),
  status: instanceStatusSchema,
  /** Why it stopped, where that was nobody's wish. */
  reason: z.string().optional(),
  image: z.string(),
  imageDigest: z.string(),
  runtime: z.string(),
  resources: resourcesSchema,
  network: networkSchema,
  volumes: z.array(volumeMountSchema),
  caches: z.array(cacheNameSchema),
  labels: labelsSchema,
  createdAt: z.string(),
  /** Of the running sandbox. */
  startedAt: z.string().optional(),
  expiresAt: z.string().nullable(),
  idleTtlMs: z.number().int().nullable(),
  idleAction: idleActionSchema,
  autoResume: z.boolean(),
  /** The instance or snapshot that it is a branch of, or was restored from. */
  parent: z.string().optional(),
  /** Where a paused one was saved to: it goes on from there, on this node or another. */
  snapshotId: z.string().optional(),
})
export type Instance = z.infer<typeof instanceSchema>

/** An instance by its id or its name. */
export const instanceRefSchema = z.union([instanceIdSchema, instanceNameSchema])
export const instanceParamsSchema = z.strictObject({ id: instanceRefSchema })

/** `GET /api/v1/instances`. `label` is `name=value`, or `name` for any value. */
export const instancesQuerySchema = pageQuerySchema.extend({
  status: instanceStatusSchema.optional(),
  label: z
    .string()
    .min(1)
    .max(2 * LIMITS.maxLabelChars.value + 1)
    .optional(),
})

/** `POST …/pause`. With `snapshot`, its state is saved too, so that it outlives the host; then its sandbox is let go. */
export const pauseRequestSchema = z.strictObject({ snapshot: z.boolean().default(false) })

/** `POST …/extend`: it expires `ttlMs` from now, or never (`null`). */
export const extendRequestSchema = z.strictObject({ ttlMs: ttl.nullable() })

/** `POST …/exec`. Answers when the command ends; with `Accept: text/event-stream`, its events as they happen. */
export const execRequestSchema = z.strictObject({
  command: z.union([
    argumentSchema.refine((text) => text.trim() !== '', 'is empty'),
    z.array(argumentSchema).min(1).max(4096),
  ]),
  env: environmentSchema,
  workdir: pathSchema.optional(),
  user: userSchema.optional(),
  stdin: z.union([z.string(), z.strictObject({ base64: z.base64() })]).optional(),
  /** How long the command may run. Default that of the instance. */
  timeoutMs: z.number().int().min(1).max(LIMITS.maxTimeoutMs.value).optional(),
  maxOutputBytes: z.number().int().min(0).max(LIMITS.maxOutputBytes.value).optional(),
})
export type ExecRequestInput = z.input<typeof execRequestSchema>
export type ExecRequestBody = z.output<typeof execRequestSchema>

/** What came of a command in an instance; `exitCode` as in an execution's result. */
export const execResultSchema = z.object({
  instanceId: instanceIdSchema,
  status: z.enum(['succeeded', 'failed', 'timeout', 'cancelled', 'oom', 'error']),
  exitCode: z.number().int().nullable(),
  signal: z.string().optional(),
  message: z.string().optional(),
  stdout: z.string(),
  stderr: z.string(),
  encoding: encodingSchema,
  truncated: z.boolean(),
  execMs: z.number(),
})
export type ExecResult = z.infer<typeof execResultSchema>

const outputChunk = { data: z.string(), encoding: encodingSchema.optional() }

/** What a streamed `exec` says: `started`, output, `exit`, and at last either `result` or `error`. */
export const execEventSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('started'), pid: z.number().int() }),
  z.object({ type: z.literal('stdout'), ...outputChunk }),
  z.object({ type: z.literal('stderr'), ...outputChunk }),
  z.object({ type: z.literal('exit'), code: z.number().int().nullable(), signal: z.string().optional() }),
  z.object({ type: z.literal('result'), result: execResultSchema }),
  z.object({ type: z.literal('error'), error: problemSchema }),
])
export type ExecEvent = z.infer<typeof execEventSchema>

/** What a running instance uses; `bramble top`. */
export const instanceStatsSchema = z.object({
  id: instanceIdSchema,
  cpuMs: z.number(),
  memoryBytes: z.number().int(),
  diskBytes: z.number().int(),
  egressBytes: z.number().int(),
  ingressBytes: z.number().int(),
  processes: z.number().int(),
})
export type InstanceStats = z.infer<typeof instanceStatsSchema>

/** A name in the sandbox: text, or base64 of bytes that are no UTF-8. */
export const fileEntrySchema = z.object({
  path: z.string(),
  encoding: encodingSchema.optional(),
  type: z.enum(['file', 'directory', 'symlink', 'fifo', 'socket', 'device']),
  sizeBytes: z.number().int(),
  /** Permission bits, `0o7777` at most. */
  mode: z.number().int(),
  uid: z.number().int(),
  gid: z.number().int(),
  modifiedAt: z.string(),
  /** Of a symbolic link. */
  target: z.string().optional(),
})
export type FileEntry = z.infer<typeof fileEntrySchema>
/** `truncated`: there were more than `maxListedFiles`. */
export const fileListSchema = z.object({ items: z.array(fileEntrySchema), truncated: z.boolean() })

/** Permission bits in octal. */
const octalMode = z
  .string()
  .regex(/^0?[0-7]{1,4}$/, 'is not a mode in octal (0 to 07777)')
  .transform((text) => Number.parseInt(text, 8))
const id32 = z.coerce.number().int().min(0).max(4_294_967_294)
const flag = z
  .enum(['true', 'false'])
  .default('false')
  .transform((text) => text === 'true')
const asUser = { user: userSchema.optional() }
/** A path in a query. Bytes that are no UTF-8 are percent-encoded as they are; the node takes it from the URL itself. */
const queryPath = z.string().min(1)

/** `PUT …/files/*path`. Parents are made; `user`: whose permissions, and whose file it becomes. */
export const fileWriteQuerySchema = z.strictObject({
  ...asUser,
  mode: octalMode.optional(),
  parents: z.literal('true').optional(),
})
export const fileReadQuerySchema = z.strictObject(asUser)
export const fileDeleteQuerySchema = z.strictObject({ ...asUser, recursive: flag })

/** `GET …/files`: what is in a directory, or one entry (of a symbolic link itself unless `followLinks`). */
export const fileLookQuerySchema = z.union([
  z.strictObject({ list: queryPath, recursive: flag, ...asUser }),
  z.strictObject({ stat: queryPath, followLinks: flag, ...asUser }),
])

/** `POST …/files`: one change. `touch` without `modifiedAt` sets the present. */
export const fileChangeQuerySchema = z.union([
  z.strictObject({ mkdir: queryPath, parents: flag, mode: octalMode.optional(), ...asUser }),
  z.strictObject({ move: queryPath, to: queryPath, ...asUser }),
  z.strictObject({ chmod: queryPath, mode: octalMode, ...asUser }),
  z.strictObject({ chown: queryPath, uid: id32, gid: id32, ...asUser }),
  z.strictObject({ touch: queryPath, modifiedAt: z.iso.datetime({ offset: true }).optional(), ...asUser }),
])

/** `POST …/upload` and `GET …/download`: a tree below `path`. */
export const treeUploadQuerySchema = z.strictObject({ path: queryPath, ...asUser })
export const treeDownloadQuerySchema = z.strictObject({ path: queryPath, gzip: flag, ...asUser })
/** `skipped`: devices and the like, which are not made. */
export const treeUploadResultSchema = z.object({
  files: z.number().int(),
  bytes: z.number().int(),
  skipped: z.number().int(),
})
export type TreeUploadResult = z.infer<typeof treeUploadResultSchema>

const portNumber = z.number().int().min(1).max(65_535)
export const portParamsSchema = z.strictObject({ id: instanceRefSchema, port: z.coerce.number().pipe(portNumber) })
export const exposeRequestSchema = z.strictObject({
  port: portNumber,
  visibility: z.enum(['private', 'public']).default('private'),
  /** For a private port: the answer's `url` holds a signature that serves instead of a key for so long. */
  signedForMs: z.number().int().min(1000).max(LIMITS.maxInstanceTtlMs.value).optional(),
})
/** `byHost` is there where the node knows its domain. */
export const exposeResponseSchema = exposedPortSchema.extend({
  byHost: z.string().optional(),
  expiresAt: z.string().optional(),
})
export const listeningPortSchema = z.object({
  port: portNumber,
  address: z.string(),
  pid: z.number().int().optional(),
  command: z.string().optional(),
  exposed: exposedPortSchema.optional(),
})
/** What listens inside, and what is exposed though nothing listens (yet). */
export const portListSchema = z.object({ items: z.array(listeningPortSchema), exposed: z.array(exposedPortSchema) })
export type ListeningPort = z.infer<typeof listeningPortSchema>
export type ExposedPort = z.infer<typeof exposedPortSchema>

export const sshKeyRequestSchema = z.strictObject({
  name: z.string().min(1).max(128),
  /** One line of an authorized_keys file, without options. */
  publicKey: z.string().min(16).max(16_384),
})
export const sshKeySchema = z.object({
  id: sshKeyIdSchema,
  name: z.string(),
  tenant: z.string(),
  type: z.string(),
  /** `SHA256:…`, as ssh-keygen(1) prints it. */
  fingerprint: z.string(),
  createdAt: z.string(),
})
export type SshKey = z.infer<typeof sshKeySchema>

export const volumeRequestSchema = z.strictObject({
  sizeMb: z.number().int().min(LIMITS.minDiskMb.value).max(LIMITS.maxDiskMb.value).default(1024),
  labels: labelsSchema.default({}),
})
export const volumeParamsSchema = z.strictObject({ name: volumeMountSchema.shape.name })
export const volumeSchema = z.object({
  name: z.string(),
  /** `cache`: a dependency cache of the tenant; made on first use. */
  kind: z.enum(['volume', 'cache']),
  sizeMb: z.number().int(),
  usedBytes: z.number().int(),
  /** Instances that have it mounted now. */
  usedBy: z.array(z.string()),
  labels: labelsSchema,
  createdAt: z.string(),
})
export type Volume = z.infer<typeof volumeSchema>
