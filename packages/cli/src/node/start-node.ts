import { readFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { type Engine, openEngine } from '@bramble/engine'
import { createMetrics, type Gateway, type GatewayOptions, openGateway, type RouteTokens } from '@bramble/gateway'
import { openImageStore } from '@bramble/runtime'
import type { Logger } from 'pino'
import { adminKeyFile } from '../data-directory.ts'
import { EXIT, ExitError } from '../exit.ts'
import { version } from '../version.ts'
import { lockDataDirectory } from './data-directory-lock.ts'
import { imagesDirectory } from './images-directory.ts'
import { type NodeConfig, SSH_PORT } from './node-config.ts'
import { removeNodeFile, writeNodeFile } from './node-file.ts'
import { openNodeStore } from './open-node-store.ts'
import { openRuntimes } from './open-runtimes.ts'

export interface StartNodeOptions {
  readonly config: NodeConfig
  readonly log: Logger
  /** False: no gateway, so that nothing listens; the engine is used in this process. */
  readonly listen: boolean
  /** Of a node that is of a network. */
  readonly routeTokens?: RouteTokens
}

export interface RunningNode extends AsyncDisposable {
  readonly engine: Engine
  /** Undefined when nothing listens. */
  readonly url: string | undefined
  /** Where SSH listens, on the host of `url`. */
  readonly sshPort: number | undefined
  /** The admin key of the data directory, where there is one. */
  readonly adminKey: string | undefined
  /** Runtimes that work, best first. */
  readonly runtimes: readonly string[]
  readonly unavailable: readonly { name: string; reason: string }[]
  /** Refuses new work, waits for what runs up to the configured grace, cancels the rest, leaves nothing behind. */
  close(): Promise<void>
}

/**
 * Assembles one node: images, runtimes, engine, and the gateway before them. One per data directory: a second one throws
 * `conflict`. What a crashed node of this data directory left is removed before any work is taken. A start that fails
 * leaves nothing behind.
 */
export const startNode = async ({ config, log, listen, routeTokens }: StartNodeOptions): Promise<RunningNode> => {
  const { dataDirectory } = config
  await using undo = new AsyncDisposableStack()
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 })
  undo.use(lockDataDirectory(dataDirectory))
  const { runtimes, unavailable } = await openRuntimes(config, (text) => log.warn(text))
  for (const runtime of runtimes) undo.use(runtime)
  if (config.noIsolation) log.warn({ runtime: 'process' }, 'nothing isolates the commands: run your own code only')
  const images = await openImageStore({ directory: imagesDirectory(dataDirectory) })
  const metrics = listen ? createMetrics({ version: version() }) : undefined
  const blobs = undo.use(await openNodeStore(config, { log, observe: metrics?.store }))
  const engine = await openEngine({
    dataDirectory,
    blobs,
    runtimes,
    unavailable,
    images,
    log,
    redisUrl: config.redisUrl,
    ...(config.maxPooled !== undefined && { limits: { maxPooled: config.maxPooled } }),
    ...(metrics && { onNotice: metrics.notice }),
  })
  undo.defer(() => engine.close({ graceMs: 0 }))
  let gateway: Gateway | undefined
  if (listen) {
    gateway = undo.use(
      await listenOn(config, {
        ...{ engine, dataDirectory, version: version(), logger: log },
        ...(metrics && { metrics }),
        ...(routeTokens && { routeTokens }),
      }),
    )
    undo.defer(() => removeNodeFile(dataDirectory))
    const { url, sshPort } = gateway
    writeNodeFile(dataDirectory, {
      url,
      ...(sshPort !== undefined && { sshPort }),
      startedAt: new Date().toISOString(),
    })
  }
  const held = undo.move()

  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    await gateway?.close({ graceMs: config.shutdownGraceMs })
    await engine.close({ graceMs: listen ? 0 : config.shutdownGraceMs })
    await held.disposeAsync()
  }
  const close = (): Promise<void> => {
    closed ??= closeOnce()
    return closed
  }
  return {
    engine,
    url: gateway?.url,
    sshPort: gateway?.sshPort,
    adminKey: gateway?.adminKey ?? readAdminKey(dataDirectory),
    runtimes: runtimes.map((runtime) => runtime.name),
    unavailable,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** `openGateway`, with what a person can do about an address that cannot be had. */
const listenOn = async (config: NodeConfig, options: Omit<GatewayOptions, 'host' | 'port'>): Promise<Gateway> => {
  const { host, port, domain } = config
  const sshPort = config.sshPort ?? (port === 0 ? 0 : SSH_PORT)
  try {
    return await openGateway({ ...options, host, port, domain, ...(sshPort !== 'off' && { sshPort }) })
  } catch (error) {
    const { code = '', port: failed } = error as NodeJS.ErrnoException & { port?: number }
    const reason = NOT_LISTENING[code]
    if (reason === undefined) throw error
    const isSsh = failed === sshPort && failed !== port
    // A second node, say: nobody asked for that very port.
    if (isSsh && config.sshPort === undefined) return listenOn({ ...config, sshPort: 0 }, options)
    throw new ExitError(
      EXIT.failure,
      `cannot listen on ${host} port ${failed ?? port}${isSsh ? ' for SSH' : ''}: ${reason}`,
      isSsh ? 'Choose with --ssh-port; `off` is no SSH.' : 'Choose with --port and --host.',
    )
  }
}

/** Of bind(2). */
const NOT_LISTENING: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program does',
  EADDRNOTAVAIL: 'this host has no such address',
  EACCES: 'only root may',
  ENOTFOUND: 'there is no such name',
}

const readAdminKey = (dataDirectory: string): string | undefined => {
  try {
    return readFileSync(adminKeyFile(dataDirectory), 'utf8').trim()
  } catch {
    return undefined
  }
}
