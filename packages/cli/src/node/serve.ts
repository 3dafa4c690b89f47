import { pino } from 'pino'
import { runFirstCommand } from './first-command.ts'
import { logFileOf } from './log-file.ts'
import type { NodeConfig } from './node-config.ts'
import { startNode } from './start-node.ts'
import type { Summary } from './summary.ts'

export interface ServeOptions {
  readonly config: NodeConfig
  /** JSON lines go to standard output, or to `node.log` of the data directory. */
  readonly logTo: 'stdout' | 'file'
  /** Ends the node. */
  readonly signal: AbortSignal
  readonly onReady: (summary: Summary) => void
}

/** Starts a node, runs a first command on it, and keeps it up until `signal`; returns when everything is released. */
export const serve = async ({ config, logTo, signal, onReady }: ServeOptions): Promise<void> => {
  const began = performance.now()
  const logFile = logTo === 'file' ? logFileOf(config.dataDirectory) : undefined
  const destination = pino.destination({ dest: logFile ?? 1, mkdir: true, sync: true })
  const log = pino({ level: config.logLevel, base: undefined, timestamp: pino.stdTimeFunctions.isoTime }, destination)
  await using node = await startNode({ config, log, listen: true })
  const url = node.url ?? ''
  const startedInMs = performance.now() - began
  const firstCommand = await runFirstCommand({ url, adminKey: node.adminKey }, signal).catch((error: unknown) => {
    if (!signal.aborted) log.error({ err: error }, 'the first command failed')
    return undefined
  })
  if (signal.aborted) return
  const { runtimes, unavailable, adminKey: apiKey } = node
  const { dataDirectory, noIsolation } = config
  const isolated = !noIsolation
  const { pid } = process
  const ssh = node.sshPort === undefined ? undefined : `ssh -p ${node.sshPort} <instance>@${hostOf(url)}`
  const more = { ssh, isolated, startedInMs, firstCommand, logFile }
  onReady({ type: 'ready', url, apiKey, dataDirectory, pid, runtimes, unavailable, ...more })
  const { promise, resolve } = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => resolve(), { once: true })
  await promise
  log.info('stopping')
}

const hostOf = (url: string): string => new URL(url).hostname.replace(/^\[(.*)\]$/, '$1')
