import type { RequestListener } from 'node:http'
import type { Socket } from 'node:net'
import { newId } from '@bramble/protocol'
import fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify'
import type { GatewayContext } from './context.ts'
import { applyCors } from './cors.ts'
import { registerDocsAssets } from './docs-page.ts'
import { withoutFilePath } from './files/url-bytes.ts'
import { listenForUpgrades, type UpgradeHandler } from './live/upgrades.ts'
import { registerNotFound } from './not-found.ts'
import type { PortProxy } from './ports/proxy.ts'
import { clientErrorResponse, sendProblem } from './problems.ts'
import { registerRoutes } from './register-routes.ts'
import { routeTable } from './routes/table.ts'

export interface ServerOptions {
  readonly logger?: FastifyBaseLogger | undefined
  readonly corsOrigins: readonly string[]
  /** Who answers upgrades, in the order in which they are asked. */
  readonly upgrades: readonly UpgradeHandler[]
}

/** Bytes that a slow reader may have waiting in a connection before whoever writes has to wait. */
const WRITE_BUFFER_BYTES = 256 * 1024

const requestIdOf = (header: string | string[] | undefined): string =>
  typeof header === 'string' && /^[A-Za-z0-9._:-]{1,128}$/.test(header) ? header : newId('request')

/** The HTTP server of one gateway: its bounds, its problem documents, its log, its routes. */
export const createServer = (context: GatewayContext, options: ServerOptions): FastifyInstance => {
  const { limits } = context
  const app = fastify({
    ...(options.logger && { loggerInstance: options.logger }),
    // `observe` writes one line for each request.
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'requestId' }),
    requestIdHeader: false,
    genReqId: (raw) => requestIdOf(raw.headers['x-request-id']),
    exposeHeadRoutes: false,
    // The router decodes paths as UTF-8; those of files are taken from the URL as it came.
    rewriteUrl: (request) => withoutFilePath(request.url ?? '/'),
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
        request.headers.upgrade?.toLowerCase() === 'websocket' || context.ports.proxy.takesUpgrade(request),
    },
    clientErrorHandler: (error, socket) => refuse(error, socket),
    frameworkErrors: (error, request, reply) => {
      void sendProblem(request, reply as unknown as FastifyReply, error)
    },
  }) as FastifyInstance
  app.server.maxConnections = limits.maxConnections
  passPorts(app, context.ports.proxy)
  listenForUpgrades(app.server, context, options.upgrades)

  app.addHook('onRequest', (request, reply, done) => {
    observe(context, request, reply)
    if (context.shutdown.closing) reply.header('connection', 'close')
    reply.headers({ 'x-request-id': request.id, 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' })
    if (!applyCors(options.corsOrigins, request, reply)) done()
  })
  app.setErrorHandler((error, request, reply) => sendProblem(request, reply, error))
  const table = routeTable(context.version)
  registerRoutes(app, context, table)
  registerDocsAssets(app)
  registerNotFound(app, table)
  return app
}

/** Requests for ports of instances never come to the routes: they are many, and need nothing of what is there. */
const passPorts = (app: FastifyInstance, proxy: PortProxy): void => {
  const { server } = app
  const taking = server.listeners('connection')
  server.removeAllListeners('connection')
  server.on('connection', (socket) =>
    proxy.connection(socket, () => {
      for (const take of taking) take.call(server, socket)
    }),
  )
  const [answer] = server.listeners('request') as RequestListener[]
  server.removeAllListeners('request')
  server.on('request', (request, response) => {
    if (!proxy.request(request, response)) answer?.(request, response)
  })
  server.on('checkContinue', (request, response) => {
    if (proxy.request(request, response, true)) return
    response.writeContinue()
    answer?.(request, response)
  })
  // Where `localhost` has a second address, Fastify makes a second server.
  app.addHook('onRequest', (request, reply, done) => {
    if (proxy.request(request.raw, reply.raw)) reply.hijack()
    else done()
  })
}

/** One line of log and one observation for each request, when its answer is out or its client is gone. */
const observe = (context: GatewayContext, request: FastifyRequest, reply: FastifyReply): void => {
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
