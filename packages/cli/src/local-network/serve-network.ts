import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { newKeyText, writeSecret } from '@bramble/http'
import { pino } from 'pino'
import { type CoordinatorConfig, readCoordinatorConfig } from '../coordinator/coordinator-config.ts'
import { startCoordinator } from '../coordinator/start-coordinator.ts'
import { adminKeyFile, networkDirectory } from '../data-directory.ts'
import { lockDataDirectory } from '../node/data-directory-lock.ts'
import { logFileOf } from '../node/log-file.ts'
import type { NodeConfig } from '../node/node-config.ts'
import { removeNodeFile, writeNodeFile } from '../node/node-file.ts'
import type { ServeOptions } from '../node/serve.ts'
import { baseImageStep } from '../setup/base-image-step.ts'
import { eventRecord } from '../worker/event-lines.ts'
import { type RunningWorker, startWorker } from '../worker/start-worker.ts'
import { runFirstJob } from './first-job.ts'
import type { NetworkSummary } from './network-summary.ts'

export interface ServeNetworkOptions extends Omit<ServeOptions, 'onReady'> {
  readonly nodes: number
  readonly onReady: (summary: NetworkSummary) => void
}

const OWNER = 'local'
const INVITE_MS = 600_000

/**
 * A whole network in this process: a coordinator on SQLite, and nodes that are whole ones, each with a data directory, a key and an
 * engine of its own. They are on one machine, so that what they agree on shows that commands are deterministic, and nothing of
 * trust. Returns when everything is released.
 */
export const serveNetwork = async ({ config, nodes, logTo, signal, onReady }: ServeNetworkOptions): Promise<void> => {
  const began = performance.now()
  const { dataDirectory } = config
  const logFile = logTo === 'file' ? logFileOf(dataDirectory) : undefined
  const destination = pino.destination({ dest: logFile ?? 1, mkdir: true, sync: true })
  const log = pino({ level: config.logLevel, base: undefined, timestamp: pino.stdTimeFunctions.isoTime }, destination)
  const directory = networkDirectory(dataDirectory)

  await using undo = new AsyncDisposableStack()
  undo.use(lockDataDirectory(dataDirectory))
  const adminKey = await ensureAdminKey(directory)
  const { url, network, networkId } = undo.use(await startCoordinator(coordinatorConfigOf(config, adminKey), log))
  const invite = { owner: OWNER, labels: {}, anchor: true, ttlMs: INVITE_MS, maxNodes: nodes }
  const { token } = await network.nodes.invite(invite)
  const workers: RunningWorker[] = []
  // Together: each waits for what the others do, too.
  undo.defer(() => Promise.all(workers.map((each) => each.close({ graceMs: config.shutdownGraceMs }))).then(() => {}))
  // One after the other: each measures how fast it is.
  for (let number = 1; number <= nodes && !signal.aborted; number++) {
    const nodeConfig = configOf(config, join(directory, 'nodes', String(number)))
    const running = await startOne(nodeConfig, { url, token, number, log, signal })
    workers.push(running)
    await running.worker.session.ready
  }
  undo.defer(() => removeNodeFile(dataDirectory))
  writeNodeFile(dataDirectory, { url, startedAt: new Date().toISOString() })
  const startedInMs = performance.now() - began
  const firstJob = await runFirstJob({ url, adminKey, nodes }, signal).catch((error: unknown) => {
    if (!signal.aborted) log.error({ err: error }, 'the first job failed')
    return undefined
  })
  if (signal.aborted) return
  onReady({
    ...{ type: 'ready', url, apiKey: adminKey, dataDirectory, pid: process.pid, network: networkId },
    nodes: workers.map(({ node, worker }) => ({ id: worker.node, url: node.url ?? '', slots: worker.report.slots })),
    runtimes: workers[0]?.node.runtimes ?? [],
    ...{ isolated: !config.noIsolation, startedInMs, firstJob, logFile },
  })
  const asked = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => asked.resolve(), { once: true })
  await asked.promise
  log.info('stopping')
}

/** As `bramble coordinator` has it, so that it can take over what is left here; on SQLite, whatever the environment says. */
const coordinatorConfigOf = (config: NodeConfig, adminKey: string): CoordinatorConfig => {
  const { dataDirectory, host, port, logLevel, objectStoreUrl, storeMaxGb, shutdownGraceMs } = config
  const flags = { host, port: String(port), logLevel, shareMachines: true }
  return readCoordinatorConfig(flags, dataDirectory, {
    BRAMBLE_ADMIN_KEY: adminKey,
    BRAMBLE_OBJECT_STORE_URL: objectStoreUrl,
    BRAMBLE_STORE_MAX_GB: storeMaxGb?.toString(),
    BRAMBLE_SHUTDOWN_GRACE_MS: String(shutdownGraceMs),
  })
}

/** Of one of the nodes: only the coordinator is at the address that was asked for. */
const configOf = (config: NodeConfig, dataDirectory: string): NodeConfig => ({
  ...config,
  ...{ dataDirectory, port: 0, sshPort: 'off' },
})

interface StartOne {
  readonly url: string
  readonly token: string
  readonly number: number
  readonly log: pino.Logger
  readonly signal: AbortSignal
}

const startOne = async (config: NodeConfig, { url, token, number, log, signal }: StartOne): Promise<RunningWorker> => {
  const image = await baseImageStep(config).plan()
  await image?.run(() => {}, signal)
  const own = log.child({ node: number })
  return await startWorker({
    ...{ config, log: own, url, token, name: `node-${number}`, local: true },
    onEvent: (event) => own.info(eventRecord(event), 'network'),
  })
}

/** The one of the network, where it is not new: commands of this host find it there. */
const ensureAdminKey = async (directory: string): Promise<string> => {
  const file = adminKeyFile(directory)
  const known = (await readFile(file, 'utf8').catch(() => '')).trim()
  if (known !== '') return known
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const made = newKeyText()
  await writeSecret(file, `${made}\n`)
  return made
}
