import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { newId } from '@bramble/protocol'
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify'
import type { HttpContext } from './context.ts'
import { applyCors } from './cors.ts'
import { registerDocsAssets } from './docs-page.ts'
import { registerNotFound } from './not-found.ts'
import { clientErrorResponse, sendProblem } from './problems.ts'
import { registerRoutes } from './register-routes.ts'
import type { Route } from './route.ts'
import { listenForUpgrades, type UpgradeHandler } from './upgrades.ts'

export interface ServerOptions<Context> {
  readonly table: readonly Route<Context>[]
  readonly logger?: FastifyBaseLogger | undefined
  /** Who answers upgrades, in the order in which they are asked. */
  readonly upgrades: readonly UpgradeHandler[]
  /** Whether a request to go on with another protocol than WebSockets is one for `upgrades`. */
  readonly takesUpgrade?: (request: IncomingMessage) => boolean
  /** The URL by which the router finds the route of a request. */
  readonly rewriteUrl?: (url: string) => string
  /** Before any hook is added. */
  readonly prepare?: (app: FastifyInstance) => void
}

/** Bytes that a slow reader may have waiting in a connection before whoever writes has to wait. */
const WRITE_BUFFER_BYTES = 256 * 1024

const requestIdOf = (header: string | string[] | undefined): string =>
  typeof header === 'string' && /^[A-Za-z0-9._:-]{1,128}$/.test(header) ? header : newId('request')

/** An HTTP server: its bounds, its problem documents, its log, its routes. */
export const createServer = <Context extends HttpContext>(
  context: Context,
  options: ServerOptions<Context>,
): FastifyInstance => {
  const { limits } = context
  const app = fastify({
    ...(options.logger && { loggerInstance: options.logger }),
    // `observe` writes one line for each request.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    requestIdHeader: false,
    genReqId: (raw) => requestIdOf(raw.headers['x-request-id']),
    exposeHeadRoutes: false,
    rewriteUrl: ({ url = '/' }) => options.rewriteUrl?.(url) ?? url,
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    keepAliveTimeout: limits.keepAliveMs,
    requestTimeout: limits.requestTimeoutMs,
    routerOptions: { maxParamLength: 256 },
    http: {
      maxHeaderSize: limits.maxHeaderBytes,
      headersTimeout: limits.headersTimeoutMs,
      connectionsCheckingInterval: Math.min(5_000, limits.headersTimeoutMs),
      highWaterMark: WRITE_BUFFER_BYTES,
      noDelay: true,
      // What is no WebSocket (h2c, say) is answered as if it had not asked, as RFC 9110 allows.
      shouldUpgradeCallback: (request) =>
        request.headers.upgrade?.toLowerCase() === 'websocket' || (options.takesUpgrade?.(request) ?? false),
    },
    clientErrorHandler: (error, socket) => refuse(error, socket),
    frameworkErrors: (error, request, reply) => {
      void sendProblem(request, reply as unknown as FastifyReply, error)
    },
  }) as FastifyInstance
  app.server.maxConnections = limits.maxConnections
  options.prepare?.(app)
  listenForUpgrades(app.server, context, options.upgrades)

  app.addHook('onRequest', (request, reply, done) => {
    observe(context, request, reply)
    if (context.shutdown.closing) reply.header('connection', 'close')
    reply.headers({ 'x-request-id': request.id, 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' })
    if (!applyCors(context.corsOrigins, request, reply)) done()
  })
  app.setErrorHandler((error, request, reply) => sendProblem(request, reply, error))
  registerRoutes(app, context, options.table)
  registerDocsAssets(app)
  registerNotFound(app, options.table)
  return app
}

/** One line of log and one observation for each request, when its answer is out or its client is gone. */
const observe = (context: HttpContext, request: FastifyRequest, reply: FastifyReply): void => {
  const startedAt = performance.now()
  const { raw } = reply
  raw.on('close', () => {
    const ms = performance.now() - startedAt
    const status = raw.writableFinished ? raw.statusCode : 499
    const route = request.routeOptions.url ?? 'none'
    context.metrics.request({ method: request.method, route, status, seconds: ms / 1000 })
    const { caller } = request
    request.log.info(
      {
        method: request.method,
        route,
        status,
        ms: Math.round(ms * 1000) / 1000,
        ...(caller && { tenant: caller.tenant, keyId: caller.keyId }),
      },
      'request',
    )
  })
}

const refuse = (error: NodeJS.ErrnoException, socket: Socket): void => {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  socket.end(clientErrorResponse(error.code, newId('request')))
}
