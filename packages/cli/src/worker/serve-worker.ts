import type { SessionEvent, Worker } from '@bramble/worker'
import { pino } from 'pino'
import { logFileOf } from '../node/log-file.ts'
import type { NodeConfig } from '../node/node-config.ts'
import { eventRecord } from './event-lines.ts'
import type { JoinConfig } from './join-config.ts'
import { startWorker } from './start-worker.ts'
import { writeWorkerFile } from './worker-file.ts'

export interface ServeWorkerOptions {
  readonly config: NodeConfig
  readonly join: JoinConfig
  readonly logTo: 'stdout' | 'file'
  /** Drains, and ends. */
  readonly signal: AbortSignal
  readonly onReady: (ready: WorkerReady) => void
  readonly onEvent: (event: SessionEvent) => void
  /** It was asked to end, and holds so many executions. */
  readonly onDrain: (held: number) => void
}

/** What `bramble worker join` has to say once the node is one of the network. */
export interface WorkerReady {
  readonly type: 'ready'
  readonly node: string
  readonly network: string
  readonly url: string
  readonly gatewayUrl: string
  readonly dataDirectory: string
  readonly pid: number
  readonly slots: number
  readonly cpus: number
  readonly memoryMb: number
  readonly speed: number
  readonly logFile: string | undefined
}

/** Starts a node that takes its work from a network, and keeps it up until `signal`; returns when everything is released. */
export const serveWorker = async (options: ServeWorkerOptions): Promise<void> => {
  const { config, join, logTo, signal, onReady, onEvent, onDrain } = options
  const { dataDirectory } = config
  const logFile = logTo === 'file' ? logFileOf(dataDirectory) : undefined
  const destination = pino.destination({ dest: logFile ?? 1, mkdir: true, sync: true })
  const log = pino({ level: config.logLevel, base: undefined, timestamp: pino.stdTimeFunctions.isoTime }, destination)
  const { drainGraceMs: graceMs, ...joining } = join
  const running = await startWorker({
    ...{ config, log, ...joining },
    onEvent: (event) => {
      log.info(eventRecord(event), 'network')
      onEvent(event)
    },
  })
  const { node, worker } = running
  try {
    writeWorkerFile(dataDirectory, join.url)
    await untilEnd(worker, signal, () => {
      const { slots, cpus, memoryMb, speed } = worker.report
      const more = { slots, cpus, memoryMb, speed, dataDirectory, logFile }
      const where = { node: worker.node, network: worker.network?.network ?? '', url: join.url }
      onReady({ type: 'ready', ...where, gatewayUrl: node.url ?? '', pid: process.pid, ...more })
    })
  } finally {
    log.info('draining')
    if (signal.aborted) onDrain(worker.session.held().length)
    await running.close({ graceMs })
  }
}

/** Rejects where the network will not have this node. */
const untilEnd = async ({ session }: Worker, signal: AbortSignal, onReady: () => void): Promise<void> => {
  const asked = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => asked.resolve(), { once: true })
  if (signal.aborted) return
  session.ready.then(onReady, () => {})
  const error = await Promise.race([session.ended, asked.promise])
  if (error !== undefined) throw error
}
