import { z } from 'zod'
import { DEFAULT_RESOURCES, LIMITS } from './limits.ts'

const utf8Bytes = (text: string): number => {
  // Every UTF-16 unit is at most three bytes of UTF-8: short strings need no encoding to be judged.
  return text.length * 3 <= LIMITS.maxArgumentBytes.value ? text.length : new TextEncoder().encode(text).length
}

/** Text that can pass through execve(2): no NUL, bounded. */
export const argumentSchema = z
  .string()
  .refine((text) => !text.includes('\0'), 'contains a NUL byte')
  .refine(
    (text) => utf8Bytes(text) <= LIMITS.maxArgumentBytes.value,
    `is longer than ${LIMITS.maxArgumentBytes.value} bytes`,
  )

export const pathSchema = z
  .string()
  .min(1)
  .max(LIMITS.maxPathBytes.value)
  .refine((text) => !text.includes('\0'), 'contains a NUL byte')

export const userSchema = z
  .string()
  .regex(/^[a-zA-Z0-9_.-]{1,64}(:[a-zA-Z0-9_.-]{1,64})?$/, 'is not user, uid, user:group or uid:gid')

export const modeSchema = z.enum(['ephemeral', 'cached', 'checkpointed', 'branched', 'persistent'])
export const runtimeChoiceSchema = z.enum(['auto', 'oci', 'docker', 'microvm'])
export const isolationSchema = z.enum(['container', 'gvisor', 'vm'])

export const resourcesSchema = z.strictObject({
  cpus: z.number().min(0.01).max(LIMITS.maxCpus.value).default(DEFAULT_RESOURCES.cpus),
  memoryMb: z
    .number()
    .int()
    .min(LIMITS.minMemoryMb.value)
    .max(LIMITS.maxMemoryMb.value)
    .default(DEFAULT_RESOURCES.memoryMb),
  diskMb: z.number().int().min(LIMITS.minDiskMb.value).max(LIMITS.maxDiskMb.value).default(DEFAULT_RESOURCES.diskMb),
  pids: z.number().int().min(LIMITS.minPids.value).max(LIMITS.maxPids.value).default(DEFAULT_RESOURCES.pids),
  gpus: z.number().int().min(0).max(64).default(0),
  timeoutMs: z.number().int().min(1).max(LIMITS.maxTimeoutMs.value).default(DEFAULT_RESOURCES.timeoutMs),
  maxOutputBytes: z.number().int().min(0).max(LIMITS.maxOutputBytes.value).default(DEFAULT_RESOURCES.maxOutputBytes),
})

const base64 = z.base64()

/** A file put into the sandbox before the command runs: text, or bytes in base64, or a blob of the store. */
export const fileInputSchema = z.union([
  z.string(),
  z.strictObject({ content: z.string(), mode: z.number().int().min(0).max(0o7777).optional() }),
  z.strictObject({ base64, mode: z.number().int().min(0).max(0o7777).optional() }),
  z.strictObject({
    blob: z.string().regex(/^[0-9a-f]{64}$/, 'is not a SHA-256 in hex'),
    mode: z.number().int().min(0).max(0o7777).optional(),
  }),
])

/** `example.org`, `*.example.org`, `203.0.113.7`, `203.0.113.0/24`. Sandboxes have no IPv6. */
const networkRuleSchema = z
  .string()
  .min(1)
  .max(253)
  .regex(/^(?:(?:\*\.)?[^\s/:*]+|[\d.]+\/(?:\d|[12]\d|3[0-2]))$/, 'is no host name, no IPv4 address and no CIDR')

/**
 * What a sandbox may reach. `none`: nothing but itself. `egress`: the public Internet; never the host, link-local and
 * private ranges, or other sandboxes. `allow`: only these host names (`example.org`, `*.example.org`) and CIDRs or
 * addresses (`203.0.113.0/24`), which may be private ones, for they were asked for.
 */
export const networkSchema = z.union([
  z.enum(['none', 'egress']),
  z.strictObject({ allow: z.array(networkRuleSchema).max(LIMITS.maxNetworkRules.value) }),
])

/** A named volume, or a dependency cache of the tenant, mounted in a sandbox. */
export const volumeMountSchema = z.strictObject({
  name: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'is not a volume name (a-z, 0-9, ., _, -)'),
  path: z.string().min(1).max(LIMITS.maxPathBytes.value).regex(/^\//, 'is not an absolute path'),
  readOnly: z.boolean().default(false),
})
/** Which tool's dependency cache: it is mounted where that tool looks for it. */
export const cacheNameSchema = z.enum(['npm', 'pip', 'cargo', 'go', 'apt'])

export const labelsSchema = z
  .record(z.string().min(1).max(LIMITS.maxLabelChars.value), z.string().max(LIMITS.maxLabelChars.value))
  .refine(
    (labels) => Object.keys(labels).length <= LIMITS.maxLabels.value,
    `more than ${LIMITS.maxLabels.value} labels`,
  )

export const environmentSchema = z
  .record(z.string().regex(/^[^=\0]+$/, 'an environment name is not empty and has no = and no NUL'), argumentSchema)
  .default({})

/**
 * What to run, and how. `command` is an argv, or a string for `sh -c`. Everything has a default but the command.
 * Unknown fields are refused, so that a misspelt limit is never silently no limit.
 */
export const executionSpecSchema = z
  .strictObject({
    command: z.union([
      argumentSchema.refine((text) => text.trim() !== '', 'is empty'),
      z.array(argumentSchema).min(1, 'is an empty argv').max(4096),
    ]),
    image: z.string().min(1).max(512).default('base'),
    mode: modeSchema.default('ephemeral'),
    runtime: runtimeChoiceSchema.default('auto'),
    isolation: isolationSchema.optional(),
    env: environmentSchema,
    secrets: z.array(z.string().min(1).max(128)).max(64).optional(),
    stdin: z.union([z.string(), z.strictObject({ base64 })]).optional(),
    files: z
      .record(pathSchema, fileInputSchema)
      .refine((files) => Object.keys(files).length <= LIMITS.maxFiles.value, `more than ${LIMITS.maxFiles.value} files`)
      .optional(),
    workdir: pathSchema.optional(),
    user: userSchema.optional(),
    resources: resourcesSchema.default(() => resourcesSchema.parse({})),
    network: networkSchema.default('none'),
    checkpoint: z.string().min(1).max(128).optional(),
    parent: z.string().min(1).max(128).optional(),
    volumes: z.array(volumeMountSchema).max(LIMITS.maxVolumes.value).optional(),
    caches: z.array(cacheNameSchema).max(8).optional(),
    outputs: z.array(pathSchema).max(LIMITS.maxOutputs.value).optional(),
    /** In mode `cached`: how old a result may be that answers, and how long this one is kept. 0: neither. */
    cacheTtlMs: z.number().int().min(0).max(LIMITS.maxCacheTtlMs.value).optional(),
    /** In mode `cached`: results of commands that exit with another code than 0 are kept too. */
    cacheFailures: z.boolean().optional(),
    /** Outputs that are too large for the answer come as blobs. Default: in mode `cached`. */
    outputBlobs: z.boolean().optional(),
    ttlMs: z.number().int().min(1).optional(),
    idleTtlMs: z.number().int().min(1).optional(),
    labels: labelsSchema.optional(),
  })
  .superRefine((spec, context) => {
    let bytes = 0
    for (const word of typeof spec.command === 'string' ? [spec.command] : spec.command) bytes += word.length + 1
    for (const [name, value] of Object.entries(spec.env)) {
      if (utf8Bytes(name) + utf8Bytes(value) + 1 > LIMITS.maxArgumentBytes.value)
        context.addIssue({
          code: 'custom',
          path: ['env', name],
          message: `is longer than ${LIMITS.maxArgumentBytes.value} bytes`,
        })
      bytes += name.length + value.length + 2
    }
    // UTF-16 units undercount what is not ASCII; count exactly only when that could matter.
    if (bytes * 3 > LIMITS.maxArgumentsAndEnvBytes.value)
      bytes = new TextEncoder().encode(JSON.stringify([spec.command, spec.env])).length
    if (bytes > LIMITS.maxArgumentsAndEnvBytes.value)
      context.addIssue({
        code: 'custom',
        path: ['env'],
        message: `command and env are more than ${LIMITS.maxArgumentsAndEnvBytes.value} bytes together`,
      })
    if (spec.stdin !== undefined) {
      const stdin = typeof spec.stdin === 'string' ? spec.stdin.length : (spec.stdin.base64.length / 4) * 3
      if (stdin > LIMITS.maxStdinBytes.value)
        context.addIssue({
          code: 'custom',
          path: ['stdin'],
          message: `is longer than ${LIMITS.maxStdinBytes.value} bytes`,
        })
    }
  })

/** A spec as a client writes it. */
export type ExecutionSpecInput = z.input<typeof executionSpecSchema>
/** A spec after parsing: every default filled in. */
export type ExecutionSpec = z.output<typeof executionSpecSchema>
export type Resources = z.output<typeof resourcesSchema>
export type FileInput = z.output<typeof fileInputSchema>
export type ExecutionMode = z.infer<typeof modeSchema>
export type Isolation = z.infer<typeof isolationSchema>
export type RuntimeChoice = z.infer<typeof runtimeChoiceSchema>
export type Labels = z.infer<typeof labelsSchema>
export type NetworkPolicy = z.infer<typeof networkSchema>
export type VolumeMount = z.output<typeof volumeMountSchema>
export type CacheName = z.infer<typeof cacheNameSchema>
