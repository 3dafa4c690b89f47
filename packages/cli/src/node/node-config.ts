import { isAbsolute, resolve } from 'node:path'
import { parseObjectStoreUrl } from '@bramble/blobs'
import { BrambleError, parse, toBrambleError } from '@bramble/protocol'
import { z } from 'zod'

const port = z.coerce.number().int().min(0).max(65_535)

/** Where SSH listens, unless told otherwise. */
export const SSH_PORT = 2222

const LOOPBACK = ['127.0.0.1', '::1', 'localhost']

/** How one node is set up. Flags win over the environment, the environment over the defaults. */
const fields = z.strictObject({
  /** `--data-dir`, `BRAMBLE_DATA_DIR`: absolute. */
  dataDirectory: z.string().min(1).refine(isAbsolute, 'is not an absolute path'),
  /** `--host`, `BRAMBLE_HOST`: the address to listen on. */
  host: z.string().min(1).max(255).default('127.0.0.1'),
  /** `--port`, `BRAMBLE_PORT`: 0 picks a free one. */
  port: port.default(8080),
  /**
   * `--ssh-port`, `BRAMBLE_SSH_PORT`: where SSH listens, on the same address; 0 picks a free port, `off` is no SSH. Default
   * 2222, or where that is taken a free one; with `port` 0, a free one.
   */
  sshPort: z.union([z.literal('off'), port]).optional(),
  /** `--domain`, `BRAMBLE_DOMAIN`: `<port>-<instance>.<domain>` leads to a port of an instance. */
  domain: z
    .string()
    .toLowerCase()
    .regex(/^(?=.{1,200}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$/, 'is not a domain name')
    .default('localhost'),
  /** `--runtime`, `BRAMBLE_RUNTIME`. `auto` takes what this host offers, best first. */
  runtime: z.enum(['auto', 'oci', 'docker', 'process']).default('auto'),
  /** `--no-isolation` only, never the environment: commands run as plain processes of this host. */
  noIsolation: z.boolean().default(false),
  /** `--log-level`, `BRAMBLE_LOG_LEVEL`. */
  logLevel: z.enum(['debug', 'info', 'warn', 'error', 'silent']).default('info'),
  /** `BRAMBLE_MAX_POOLED`: sandboxes that may wait in pools; 0 keeps none. Default: the engine's. */
  maxPooled: z.coerce.number().int().min(0).max(4096).optional(),
  /**
   * `BRAMBLE_REDIS_URL` only, for it may hold a password, and arguments are seen by all: a Redis through which nodes share cached
   * results at once.
   */
  redisUrl: z
    .string()
    .max(2048)
    .regex(/^rediss?:\/\/./, 'is not the URL of a Redis (redis://, rediss://)')
    .optional(),
  /**
   * `--object-store`, `BRAMBLE_OBJECT_STORE_URL`: where blobs are beside this host (`s3://bucket/prefix?endpoint=…`). A secret in
   * it belongs in the environment: arguments are seen by all.
   */
  objectStoreUrl: z
    .string()
    .max(4096)
    .superRefine((url, context) => {
      try {
        parseObjectStoreUrl(url)
      } catch (error) {
        context.addIssue({ code: 'custom', message: toBrambleError(error).detail })
      }
    })
    .optional(),
  /** `--store-max-gb`, `BRAMBLE_STORE_MAX_GB`: what blobs may take on this host; what the object store has makes room. Default: no bound. */
  storeMaxGb: z.coerce.number().positive().max(1_000_000).optional(),
  /** `BRAMBLE_SHUTDOWN_GRACE_MS`: how long running executions may go on after a stop was asked for. */
  shutdownGraceMs: z.coerce.number().int().min(0).max(600_000).default(10_000),
})

/** One by one, for other programs of this host that are set up alike. */
export const nodeConfigFields = fields.shape

const nodeConfigSchema = fields.refine(({ noIsolation, host }) => !noIsolation || LOOPBACK.includes(host), {
  path: ['host'],
  message: 'is not a loopback address: a node without isolation listens on no other',
})

export type NodeConfig = z.output<typeof nodeConfigSchema>

/** As commander gives them; undefined where the flag was not given. */
export interface NodeFlags {
  readonly dataDir?: string | undefined
  readonly host?: string | undefined
  readonly port?: string | number | undefined
  readonly sshPort?: string | number | undefined
  readonly domain?: string | undefined
  readonly runtime?: string | undefined
  readonly noIsolation?: boolean | undefined
  readonly logLevel?: string | undefined
  readonly objectStore?: string | undefined
  readonly storeMaxGb?: string | number | undefined
}

type Environment = Readonly<Record<string, string | undefined>>

const given = (env: Environment, name: string): string | undefined => (env[name] === '' ? undefined : env[name])

/** Throws `invalid_request` that names the field, for a value that cannot be. */
export const readNodeConfig = (
  flags: NodeFlags,
  defaultDataDirectory: string,
  env: Environment = process.env,
): NodeConfig => {
  if (flags.objectStore?.includes('secretAccessKey') || flags.objectStore?.includes('sessionToken'))
    throw new BrambleError('invalid_request', {
      detail: '--object-store holds a secret, and arguments are seen by all: set BRAMBLE_OBJECT_STORE_URL instead',
    })
  const wanted = {
    dataDirectory: resolve(flags.dataDir ?? given(env, 'BRAMBLE_DATA_DIR') ?? defaultDataDirectory),
    host: flags.host ?? given(env, 'BRAMBLE_HOST'),
    port: flags.port ?? given(env, 'BRAMBLE_PORT'),
    sshPort: flags.sshPort ?? given(env, 'BRAMBLE_SSH_PORT'),
    domain: flags.domain ?? given(env, 'BRAMBLE_DOMAIN'),
    runtime: flags.runtime ?? given(env, 'BRAMBLE_RUNTIME'),
    noIsolation: flags.noIsolation,
    logLevel: flags.logLevel ?? given(env, 'BRAMBLE_LOG_LEVEL'),
    maxPooled: given(env, 'BRAMBLE_MAX_POOLED'),
    redisUrl: given(env, 'BRAMBLE_REDIS_URL'),
    objectStoreUrl: flags.objectStore ?? given(env, 'BRAMBLE_OBJECT_STORE_URL'),
    storeMaxGb: flags.storeMaxGb ?? given(env, 'BRAMBLE_STORE_MAX_GB'),
    shutdownGraceMs: given(env, 'BRAMBLE_SHUTDOWN_GRACE_MS'),
  }
  return parse(nodeConfigSchema, Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)))
}
