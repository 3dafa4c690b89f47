import { join, resolve } from 'node:path'
import { BrambleError, parse } from '@bramble/protocol'
import { z } from 'zod'
import { networkDirectory } from '../data-directory.ts'
import { nodeConfigFields } from '../node/node-config.ts'

const { dataDirectory, host, port, logLevel, redisUrl, objectStoreUrl, storeMaxGb, shutdownGraceMs } = nodeConfigFields

const isPostgres = (database: string): boolean => /^postgres(ql)?:\/\//.test(database)

const list = z
  .string()
  .max(4096)
  .transform((text) => text.split(',').flatMap((item) => item.trim() || []))

/** How one coordinator is set up. Flags win over the environment, the environment over the defaults. */
const configSchema = z
  .strictObject({
    /** `--data-dir`, `BRAMBLE_DATA_DIR`: its part of it. */
    dataDirectory,
    ...{ host, logLevel, redisUrl, objectStoreUrl, storeMaxGb, shutdownGraceMs },
    /** `--port`, `BRAMBLE_PORT`: 0 picks a free one. */
    port: port.removeDefault().default(8090),
    /** `--database`, `BRAMBLE_DATABASE_URL`: `postgres://…`, or the path of an SQLite file. Default: `network.db` of the directory. */
    database: z.string().min(1).max(4096),
    /** `BRAMBLE_CLUSTER_SECRET` only, for arguments are seen by all: the same at all coordinators of a network, which it makes one. */
    clusterSecret: z.string().min(16, 'has less than 16 characters').max(4096).optional(),
    /** `--advertise-url`, `BRAMBLE_ADVERTISE_URL`: where the other coordinators reach this one. Default: where it listens. */
    advertiseUrl: z
      .url({ protocol: /^https?$/ })
      .max(512)
      .optional(),
    /** `--share-machines`, `BRAMBLE_SHARE_MACHINES=1`: executions of a job may be on one owner, machine or subnet. */
    shareMachines: z.stringbool().default(false),
    /** `--open`, `BRAMBLE_OPEN=1`: nodes join without an invite. */
    open: z.stringbool().default(false),
    /** `--grant-credits`, `BRAMBLE_GRANT_CREDITS`: of a tenant that comes for the first time. */
    grantCredits: z.coerce.number().int().min(0).max(1e12).optional(),
    /** `--failover`, `BRAMBLE_FAILOVER_MS`: how long a node may be silent before its users and instances go elsewhere. Default 20 s. */
    failoverMs: z.coerce.number().int().min(1000).max(86_400_000).optional(),
    /** `--snapshot-every`, `BRAMBLE_SNAPSHOT_EVERY_MS`: how often the files of instances are kept in the shared store. Default 1 min. */
    snapshotEveryMs: z.coerce.number().int().min(1000).max(86_400_000).optional(),
    /** `--trusted-proxies`, `BRAMBLE_TRUSTED_PROXIES`: addresses and networks whose `X-Forwarded-For` is believed, with commas. */
    trustedProxies: list.default([]),
    /** `--cors-origins`, `BRAMBLE_CORS_ORIGINS`: origins whose pages may read answers, with commas. */
    corsOrigins: list.default([]),
    /** `BRAMBLE_ADMIN_KEY` only: an admin key that is to be known, in the place of one that is made. */
    adminKey: z
      .string()
      .regex(/^[\x21-\x7e]{24,512}$/, 'is not 24 to 512 printable characters without spaces')
      .optional(),
  })
  .refine(({ database, clusterSecret }) => !isPostgres(database) || clusterSecret !== undefined, {
    path: ['clusterSecret'],
    message: 'coordinators that share PostgreSQL need one: set BRAMBLE_CLUSTER_SECRET, the same at each',
  })

export type CoordinatorConfig = z.output<typeof configSchema>

/** As commander gives them; undefined where the flag was not given. */
export interface CoordinatorFlags {
  readonly dataDir?: string
  readonly host?: string
  readonly port?: string
  readonly database?: string
  readonly redis?: string
  readonly objectStore?: string
  readonly storeMaxGb?: string
  readonly advertiseUrl?: string
  readonly shareMachines?: boolean
  readonly open?: boolean
  readonly grantCredits?: string
  readonly failover?: number
  readonly snapshotEvery?: number
  readonly trustedProxies?: string
  readonly corsOrigins?: string
  readonly logLevel?: string
}

type Environment = Readonly<Record<string, string | undefined>>

/** What a URL may not have where everybody can read it. */
const withoutSecret = (flag: string, url: string | undefined, variable: string): void => {
  const hasPassword = url !== undefined && URL.canParse(url) && new URL(url).password !== ''
  if (!hasPassword && !url?.includes('secretAccessKey') && !url?.includes('sessionToken')) return
  throw new BrambleError('invalid_request', {
    detail: `${flag} holds a secret, and arguments are seen by all: set ${variable} instead`,
  })
}

/** Throws `invalid_request` that names the field, for a value that cannot be. */
export const readCoordinatorConfig = (
  flags: CoordinatorFlags,
  defaultDataDirectory: string,
  env: Environment = process.env,
): CoordinatorConfig => {
  withoutSecret('--database', flags.database, 'BRAMBLE_DATABASE_URL')
  withoutSecret('--redis', flags.redis, 'BRAMBLE_REDIS_URL')
  withoutSecret('--object-store', flags.objectStore, 'BRAMBLE_OBJECT_STORE_URL')
  const given = (name: string): string | undefined => env[name] || undefined
  const directory = networkDirectory(resolve(flags.dataDir ?? given('BRAMBLE_DATA_DIR') ?? defaultDataDirectory))
  const database = flags.database ?? given('BRAMBLE_DATABASE_URL') ?? join(directory, 'network.db')
  const flag = (value: boolean | undefined, name: string): string | undefined => (value ? 'true' : given(name))
  const wanted = {
    dataDirectory: directory,
    database: isPostgres(database) ? database : resolve(database),
    host: flags.host ?? given('BRAMBLE_HOST'),
    port: flags.port ?? given('BRAMBLE_PORT'),
    redisUrl: flags.redis ?? given('BRAMBLE_REDIS_URL'),
    objectStoreUrl: flags.objectStore ?? given('BRAMBLE_OBJECT_STORE_URL'),
    storeMaxGb: flags.storeMaxGb ?? given('BRAMBLE_STORE_MAX_GB'),
    clusterSecret: given('BRAMBLE_CLUSTER_SECRET'),
    advertiseUrl: flags.advertiseUrl ?? given('BRAMBLE_ADVERTISE_URL'),
    shareMachines: flag(flags.shareMachines, 'BRAMBLE_SHARE_MACHINES'),
    open: flag(flags.open, 'BRAMBLE_OPEN'),
    grantCredits: flags.grantCredits ?? given('BRAMBLE_GRANT_CREDITS'),
    failoverMs: flags.failover ?? given('BRAMBLE_FAILOVER_MS'),
    snapshotEveryMs: flags.snapshotEvery ?? given('BRAMBLE_SNAPSHOT_EVERY_MS'),
    trustedProxies: flags.trustedProxies ?? given('BRAMBLE_TRUSTED_PROXIES'),
    corsOrigins: flags.corsOrigins ?? given('BRAMBLE_CORS_ORIGINS'),
    logLevel: flags.logLevel ?? given('BRAMBLE_LOG_LEVEL'),
    adminKey: given('BRAMBLE_ADMIN_KEY'),
    shutdownGraceMs: given('BRAMBLE_SHUTDOWN_GRACE_MS'),
  }
  return parse(configSchema, Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined)))
}

export const usesPostgres = ({ database }: CoordinatorConfig): boolean => isPostgres(database)
