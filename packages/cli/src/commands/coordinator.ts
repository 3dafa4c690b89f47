import { pino } from 'pino'
import type { CliCommand } from '../command.ts'
import { type CoordinatorFlags, readCoordinatorConfig } from '../coordinator/coordinator-config.ts'
import { describeCoordinator } from '../coordinator/coordinator-summary.ts'
import { dataDirectory } from '../data-directory.ts'
import { interrupt } from '../node/interrupt.ts'
import { logFileOf } from '../node/log-file.ts'
import { parseDuration } from '../parse-value.ts'
import { hasColor } from '../terminal.ts'

interface CoordinatorOptions extends CoordinatorFlags {
  readonly json: boolean
}

export default {
  name: 'coordinator',
  summary: 'Run a coordinator: it takes jobs, places them on nodes, and verifies what they say',
  configure(command) {
    command
      .option('-p, --port <number>', 'port to listen on; 0 takes a free one (default 8090, BRAMBLE_PORT)')
      .option('--host <address>', 'address to listen on (default 127.0.0.1, BRAMBLE_HOST)')
      .option('--database <where>', 'postgres://…, or the path of an SQLite file (BRAMBLE_DATABASE_URL)')
      .option('--redis <url>', 'a Redis that tells coordinators at once who writes (BRAMBLE_REDIS_URL)')
      .option('--object-store <url>', 's3://bucket/prefix?endpoint=…: blobs are there too (BRAMBLE_OBJECT_STORE_URL)')
      .option('--store-max-gb <number>', 'what blobs may take on this host (BRAMBLE_STORE_MAX_GB)')
      .option('--advertise-url <url>', 'where other coordinators reach this one (BRAMBLE_ADVERTISE_URL)')
      .option('--share-machines', 'a job’s executions may share owner, machine and subnet (BRAMBLE_SHARE_MACHINES)')
      .option('--open', 'nodes join without an invite (BRAMBLE_OPEN)')
      .option('--grant-credits <number>', 'credits of a tenant that is new (BRAMBLE_GRANT_CREDITS)')
      .option(
        '--failover <time>',
        'silence after which users and instances leave a node (default 20s, BRAMBLE_FAILOVER_MS)',
        parseDuration,
      )
      .option(
        '--snapshot-every <time>',
        'how often files of instances are kept (default 1m, BRAMBLE_SNAPSHOT_EVERY_MS)',
        parseDuration,
      )
      .option('--trusted-proxies <list>', 'addresses of load balancers, with commas (BRAMBLE_TRUSTED_PROXIES)')
      .option('--cors-origins <list>', 'origins of pages that may use it, with commas (BRAMBLE_CORS_ORIGINS)')
      .option('--data-dir <path>', 'its files are in `network` below it (BRAMBLE_DATA_DIR)')
      .option('--log-level <level>', 'debug, info, warn, error or silent (default info, BRAMBLE_LOG_LEVEL)')
      .option('--json', 'JSON, which is also what a pipe gets: one line when it is up, then its log', false)
      .addHelpText('after', SECRETS)
      .action(coordinator)
  },
} satisfies CliCommand

const SECRETS = `
Secrets come by the environment alone, for arguments are seen by all:
  BRAMBLE_CLUSTER_SECRET  the same at all coordinators of a network; needed with PostgreSQL
  BRAMBLE_ADMIN_KEY       an admin key to be known, in the place of one that the first start makes`

const coordinator = async (options: CoordinatorOptions): Promise<void> => {
  const config = readCoordinatorConfig(options, dataDirectory())
  using interrupted = interrupt()
  const { signal } = interrupted
  const plain = options.json || !process.stdout.isTTY
  const logFile = plain ? undefined : logFileOf(config.dataDirectory)
  const destination = pino.destination({ dest: logFile ?? 1, mkdir: true, sync: true })
  const log = pino({ level: config.logLevel, base: undefined, timestamp: pino.stdTimeFunctions.isoTime }, destination)
  const { startCoordinator } = await import('../coordinator/start-coordinator.ts')
  await using running = await startCoordinator(config, log)
  const { url, adminKey: apiKey, networkId: network, leads } = running
  const database = config.database.replace(/\/\/[^@/]*@/, '//')
  const { dataDirectory: data } = config
  const summary = { type: 'ready' as const, url, apiKey, network, leads, database, dataDirectory: data, logFile }
  console.log(plain ? JSON.stringify(summary) : describeCoordinator(summary, hasColor(process.stdout)))
  const { promise, resolve } = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => resolve(), { once: true })
  if (!signal.aborted) await promise
  log.info('stopping')
}
