import { mkdir } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { BlobStore } from '@bramble/blobs'
import {
  createServer,
  ensureAdminKey,
  hostInUrl,
  idempotencyMemory,
  inFlightDone,
  isLoopback,
  keyTextOf,
  openAuthenticator,
  stopServer,
  type UpgradeHandler,
  unknownKey,
} from '@bramble/http'
import type { Identity } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { BrambleError } from '@bramble/protocol'
import type { FastifyBaseLogger } from 'fastify'
import { addressOf, clientOf } from './fronts/address.ts'
import { cached } from './fronts/cached.ts'
import type { FrontContext } from './fronts/front-context.ts'
import { type KeyDocuments, openKeyDocuments } from './fronts/key-documents.ts'
import { DEFAULT_FRONT_LIMITS, type FrontLimits } from './fronts/limits.ts'
import { createFrontMetrics, type FrontMetrics } from './fronts/metrics.ts'
import { createNodeRequests } from './fronts/node-requests.ts'
import { openRates } from './fronts/rates.ts'
import { routeTable } from './fronts/routes/table.ts'
import { openWorkerSessions } from './fronts/session/worker-sessions.ts'
import { openTenantBlobs } from './fronts/tenant-blobs.ts'
import type { Network } from './network/network.ts'
import type { Store } from './store/store.ts'

export interface CoordinatorOptions {
  /** The writer, or a link to it. Not the coordinator's: close it after the coordinator. */
  readonly network: Network
  /** As that of the network; it is read only. Not the coordinator's either, nor are `blobs`. */
  readonly store: Store
  readonly blobs: BlobStore
  /** The network's key, and 32 bytes in `0x` hex that receipts name it by: the same at all coordinators of a network. */
  readonly identity: Identity
  readonly networkId: string
  /** Where the admin key is left that the first start makes. */
  readonly dataDirectory: string
  /** Default 127.0.0.1. */
  readonly host?: string
  /** Default 8090; 0 takes a free one. */
  readonly port?: number
  readonly version: string
  /** Default true. Without keys only a loopback address may be bound; nodes sign their requests all the same. */
  readonly auth?: boolean
  /** An admin key that is to be known, in the place of one that is made. */
  readonly adminKey?: string | undefined
  /** Any logger of pino's shape; none by default. Keys, bodies and signatures are never logged. */
  readonly logger?: FastifyBaseLogger | undefined
  /** Those that the store tells of its writes (`timedStore`). */
  readonly metrics?: FrontMetrics | undefined
  readonly limits?: Partial<FrontLimits>
  /** Origins whose pages may read answers. Default none. */
  readonly corsOrigins?: readonly string[]
  /** Proxies before this coordinator, as addresses or networks: of them `X-Forwarded-For` is believed. Default none. */
  readonly trustedProxies?: readonly string[]
  /** Other connections that this server takes: links of other coordinators. */
  readonly upgrades?: readonly UpgradeHandler[]
  /** Called when nothing is under way any more, and before the server stops: to close the network, and with it such links. */
  readonly beforeStop?: () => Promise<void>
  /** Milliseconds since 1970. */
  readonly now?: () => number
}

/** The front of one coordinator: HTTP, and the streams of workers. */
export interface Coordinator extends AsyncDisposable {
  readonly url: string
  readonly port: number
  /** Set when this start made it, which is the first of the network: it is also in `<dataDirectory>/admin.key`. */
  readonly adminKey?: string
  /**
   * Refuses new requests (`/ready` says so), sends workers to other coordinators, waits up to `graceMs` (default 10 seconds) for what
   * is under way, cancels the rest, stops listening. Safe to call twice.
   */
  close(options?: { graceMs?: number }): Promise<void>
}

/** How long the first start waits for a coordinator that writes. */
const WRITER_MS = 30_000

/**
 * Opens the front of one coordinator of a network: any number of them stand behind a load balancer, all alike.
 *
 * Errors: `invalid_request` for an address that these options may not bind; `not_leader` where no coordinator writes in time; what
 * listen(2) says otherwise.
 */
export const openCoordinator = async (options: CoordinatorOptions): Promise<Coordinator> => {
  const { network, store, blobs, identity, version, logger, host = '127.0.0.1', auth = true, now = Date.now } = options
  if (!auth && !isLoopback(host))
    throw new BrambleError('invalid_request', { detail: `\`${host}\` is not a loopback address, so it needs keys` })
  const dataDirectory = resolve(options.dataDirectory)
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 })
  const limits: FrontLimits = { ...DEFAULT_FRONT_LIMITS, ...options.limits }
  const corsOrigins = options.corsOrigins ?? []
  const curve = wasmCurve()
  const rates = openRates(limits)
  const clientAddress = addressOf(options.trustedProxies ?? [])
  const metrics = options.metrics ?? createFrontMetrics({ version })
  const { keyCacheMs: cacheMs, keyRequestsPerSecond: requestsPerSecond } = limits
  const keys = await openKeyDocuments({ store, network, cacheMs, requestsPerSecond, log: logger })
  const adminKey = auth ? await firstKey(keys, dataDirectory, options.adminKey) : undefined
  const open = openAuthenticator(corsOrigins)
  const stats = cached(limits.statsCacheMs, () => network.stats())
  const writer = cached(limits.statsCacheMs, () => store.writer())
  const leaving = new AbortController()

  await using undo = new AsyncDisposableStack()
  const context: FrontContext = {
    ...{ network, store, blobs, identity, curve, keys, rates, metrics, limits, corsOrigins, version, now },
    networkId: options.networkId,
    addressOf: clientAddress,
    tenantBlobs: openTenantBlobs({ blobs, ttlMs: limits.blobTtlMs, now }),
    nodes: createNodeRequests({ network, curve, rates, now, addressOf: clientAddress }),
    authenticate: (request, token) => {
      if (!auth) return open(request, token)
      const found = keys.find(keyTextOf(request, token))
      const refused = (): never => {
        rates.failures.take(clientOf(clientAddress(request)))
        throw unknownKey()
      }
      if (found instanceof Promise) return found.then((caller) => caller ?? refused())
      return found ?? refused()
    },
    idempotency: idempotencyMemory({ maxEntries: 4096, maxBytes: 8 * 1024 * 1024, ttlMs: 600_000 }),
    startedAt: performance.now(),
    held: { bodyBytes: 0 },
    inFlight: new Set(),
    shutdown: { closing: false },
    leaving: leaving.signal,
    sessionCount: () => sessions.size,
    writerName: async () => (await writer().catch(() => undefined))?.name,
    metricsText: async () => metrics.text(await stats().catch(() => undefined), sessions.size),
    log: logger,
  }
  const sessions = openWorkerSessions(context)
  undo.defer(() => sessions.close())
  undo.defer(startCollecting(context))
  const server = createServer(context, {
    table: routeTable(version),
    logger,
    upgrades: [sessions.handle, ...(options.upgrades ?? [])],
    // A worker whose clock is wrong corrects it by this.
    prepare: (app) =>
      app.addHook('onRequest', (_request, reply, done) => {
        reply.header('bramble-time', String(now()))
        done()
      }),
  })
  undo.defer(() => stopServer(server))
  await server.listen({ host, port: options.port ?? 8090 })
  const { port } = server.server.address() as AddressInfo
  const held = undo.move()

  let closed: Promise<void> | undefined
  const closeOnce = async (graceMs: number): Promise<void> => {
    context.shutdown.closing = true
    leaving.abort()
    await Promise.all([sessions.close(), inFlightDone(context, graceMs)])
    await options.beforeStop?.()
    await held.disposeAsync()
  }
  const close: Coordinator['close'] = ({ graceMs = 10_000 } = {}) => {
    closed ??= closeOnce(graceMs)
    return closed
  }
  return {
    url: `http://${hostInUrl(host)}:${port}`,
    port,
    ...(adminKey !== undefined && { adminKey }),
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** The admin key that this start made, where the network had none. */
const firstKey = async (
  keys: KeyDocuments,
  dataDirectory: string,
  given: string | undefined,
): Promise<string | undefined> => {
  for (const until = performance.now() + WRITER_MS; ; await delay(200)) {
    try {
      if (given === undefined) {
        const known = await keys.list()
        return await ensureAdminKey({ list: () => known, create: keys.create }, dataDirectory)
      }
      if ((await keys.find(given)) === undefined)
        await keys.create({ name: 'admin', tenant: 'default', scopes: ['execute', 'read', 'admin'], quota: {} }, given)
      return undefined
    } catch (error) {
      if (!(error instanceof BrambleError) || error.code !== 'not_leader' || performance.now() > until) throw error
    }
  }
}

/** Removes blobs that nobody may read any more, now and then; what it gives ends that. */
const startCollecting = ({ tenantBlobs, limits, log }: FrontContext): (() => Promise<void>) => {
  const ended = new AbortController()
  let running: Promise<void> | undefined
  const timer = setInterval(() => {
    running ??= tenantBlobs
      .collect(ended.signal)
      .catch((err: unknown) => {
        if (!ended.signal.aborted) log?.warn({ err }, 'blobs could not be collected')
      })
      .finally(() => {
        running = undefined
      })
  }, limits.collectMs)
  timer.unref()
  return async () => {
    clearInterval(timer)
    ended.abort()
    await running
  }
}
