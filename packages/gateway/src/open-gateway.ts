import { chmod, mkdir, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import type { Engine } from '@bramble/engine'
import {
  createServer,
  ensureAdminKey,
  hostInUrl,
  idempotencyMemory,
  inFlightDone,
  isLoopback,
  keyAuthenticator,
  openAuthenticator,
  stopServer,
} from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import type { FastifyBaseLogger } from 'fastify'
import { youngCollector } from './collect-young.ts'
import type { GatewayContext } from './context.ts'
import { withoutFilePath } from './files/url-bytes.ts'
import { openKeyStore } from './key-store.ts'
import { DEFAULT_LIMITS, type GatewayLimits } from './limits.ts'
import { liveRegistry } from './live/live-registry.ts'
import { openLive } from './live/open-live.ts'
import { createMetrics, type Metrics } from './metrics.ts'
import { passPorts } from './ports/pass-ports.ts'
import { openPortProxy } from './ports/proxy.ts'
import { openSignatures } from './ports/signatures.ts'
import { openRouteTokens, type RouteTokens, withRouteTokens } from './route-tokens.ts'
import { routeTable } from './routes/table.ts'
import { openSshServer } from './ssh/server.ts'
import { openSshKeyStore } from './ssh/ssh-key-store.ts'

export interface GatewayOptions {
  /** Not the gateway's: close it after the gateway. */
  readonly engine: Engine
  /** Where keys are kept, and archives on their way in. */
  readonly dataDirectory: string
  /** Default 127.0.0.1. */
  readonly host?: string
  /** Default 8080; 0 takes a free one. */
  readonly port?: number
  /** Where SSH listens, on the same host; 0 takes a free port. Default: nowhere. */
  readonly sshPort?: number
  readonly version: string
  /** Default true. Without keys only a loopback address may be bound. */
  readonly auth?: boolean
  /** Any logger of pino's shape; none by default. Keys, bodies and values of env are never logged. */
  readonly logger?: FastifyBaseLogger
  /** The metrics that the engine tells of its work (`onNotice`); without them only requests and states are shown. */
  readonly metrics?: Metrics
  readonly limits?: Partial<GatewayLimits>
  /** `<port>-<instance>.<domain>` leads to a port of an instance. Default `localhost`. */
  readonly domain?: string
  /** Origins whose pages may read answers. Default none. */
  readonly corsOrigins?: readonly string[]
  /** There where the node is of a network. */
  readonly routeTokens?: RouteTokens
}

export interface Gateway extends AsyncDisposable {
  readonly url: string
  readonly port: number
  /** Where SSH listens, on the same host; undefined where it does not. */
  readonly sshPort?: number
  /** Set when this start made it, which is the first: it is also in `<dataDirectory>/admin.key`. */
  readonly adminKey?: string
  /**
   * Refuses new work (`/ready` says so), waits up to `graceMs` (default 10 seconds) for what is under way, cancels the
   * rest, stops listening. Safe to call twice.
   */
  close(options?: { graceMs?: number }): Promise<void>
}

/**
 * Opens the HTTP front of one node.
 *
 * Errors: `invalid_request` for an address that these options may not bind; what listen(2) says otherwise.
 */
export const openGateway = async (options: GatewayOptions): Promise<Gateway> => {
  const { engine, version, host = '127.0.0.1', auth = true, corsOrigins = [] } = options
  if (!auth && !isLoopback(host))
    throw new BrambleError('invalid_request', { detail: `\`${host}\` is not a loopback address, so it needs keys` })
  const dataDirectory = resolve(options.dataDirectory)
  const uploadDirectory = join(dataDirectory, 'uploads')
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 })
  // What a crash left half received.
  await rm(uploadDirectory, { recursive: true, force: true })
  await mkdir(uploadDirectory, { mode: 0o700 })
  await chmod(uploadDirectory, 0o700)

  await using undo = new AsyncDisposableStack()
  const keys = undo.use(await openKeyStore(join(dataDirectory, 'gateway.db')))
  const sshKeys = undo.use(await openSshKeyStore(join(dataDirectory, 'gateway.db')))
  const adminKey = auth ? await ensureAdminKey(keys, dataDirectory) : undefined
  const limits: GatewayLimits = { ...DEFAULT_LIMITS, ...options.limits }
  const shutdown: GatewayContext['shutdown'] = { closing: false }
  const domain = options.domain?.toLowerCase() ?? 'localhost'
  const signatures = await openSignatures(dataDirectory)
  const routeTokens = options.routeTokens && (await openRouteTokens(options.routeTokens))
  const ofKeys = auth ? keyAuthenticator(keys) : openAuthenticator(corsOrigins)
  const proxy = openPortProxy({
    instances: engine.instances,
    keys,
    routeTokens,
    signatures,
    domain,
    stallTimeoutMs: limits.stallTimeoutMs,
    keepAliveMs: limits.keepAliveMs,
    headersTimeoutMs: limits.headersTimeoutMs,
    maxHeaderBytes: limits.maxHeaderBytes,
    logger: options.logger,
    isClosing: () => shutdown.closing,
    ...(!auth && { open: openAuthenticator(corsOrigins) }),
  })
  const context: GatewayContext = {
    engine,
    keys,
    authenticate: routeTokens ? withRouteTokens(routeTokens, ofKeys) : ofKeys,
    idempotency: idempotencyMemory({
      maxEntries: limits.maxIdempotencyEntries,
      maxBytes: limits.maxIdempotencyBytes,
      ttlMs: limits.idempotencyTtlMs,
    }),
    metrics: options.metrics ?? createMetrics({ version }),
    limits,
    version,
    startedAt: performance.now(),
    uploadDirectory,
    countOutput: youngCollector(),
    held: { bodyBytes: 0, uploadBytes: 0 },
    inFlight: new Set(),
    live: liveRegistry(limits),
    corsOrigins,
    log: options.logger,
    sshKeys,
    ports: { domain, signatures, proxy },
    shutdown,
  }
  const live = openLive(context)
  const server = createServer(context, {
    table: routeTable(version),
    logger: options.logger,
    upgrades: [proxy.upgrade, live.handle],
    takesUpgrade: proxy.takesUpgrade,
    // The router decodes paths as UTF-8; those of files are taken from the URL as it came.
    rewriteUrl: withoutFilePath,
    prepare: (app) => passPorts(app, proxy),
  })
  undo.defer(() => stopServer(server))
  undo.defer(() => proxy.close())
  await server.listen({ host, port: options.port ?? 8080 })
  const { port } = server.server.address() as AddressInfo
  const ssh =
    options.sshPort === undefined
      ? undefined
      : undo.use(
          await openSshServer({
            ...{ instances: engine.instances, keys, sshKeys, auth, dataDirectory, host },
            port: options.sshPort,
            logger: options.logger,
          }),
        )
  const held = undo.move()

  let closed: Promise<void> | undefined
  const closeOnce = async (graceMs: number): Promise<void> => {
    context.shutdown.closing = true
    await Promise.all([live.close(), inFlightDone(context, graceMs)])
    await held.disposeAsync()
  }
  const close: Gateway['close'] = ({ graceMs = 10_000 } = {}) => {
    closed ??= closeOnce(graceMs)
    return closed
  }
  return {
    url: `http://${hostInUrl(host)}:${port}`,
    port,
    ...(ssh && { sshPort: ssh.port }),
    ...(adminKey !== undefined && { adminKey }),
    close,
    [Symbol.asyncDispose]: close,
  }
}
