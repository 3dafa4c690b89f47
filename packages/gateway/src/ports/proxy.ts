import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Exposure, Instances } from '@bramble/engine'
import { BrambleError, toBrambleError } from '@bramble/protocol'
import type { FastifyBaseLogger } from 'fastify'
import { refuseUpgrade, type Upgrade, type UpgradeHandler } from '../live/upgrades.ts'
import { presentable } from '../problems.ts'
import { type Access, type AccessRules, admit, COOKIE } from './access.ts'
import { type PortAddress, portAddress } from './address.ts'
import { type ExchangeEnd, exchange } from './exchange.ts'
import { type UpstreamPool, upstreamPool } from './pool.ts'
import { refuse, wantsPage } from './refuse.ts'
import { requestBody, requestHead } from './request-head.ts'
import { upgrade } from './upgrade.ts'

/**
 * The way from a client to a port of an instance: `ANY /p/<instance>/<port>/*` and `Host: <port>-<instance>.<domain>`. It
 * works on the server of node:http, before routes are looked at, since every request of every app goes through it.
 */
export interface PortProxy {
  /** Answers a request that is for a port; false for any other, which it leaves alone. */
  request(request: IncomingMessage, response: ServerResponse, waitsToContinue?: boolean): boolean
  /** Whether a request that asks to switch protocols is for a port, and may: else it is answered as if it had not asked. */
  takesUpgrade(request: IncomingMessage): boolean
  readonly upgrade: UpgradeHandler
  /** Ends what goes on for a port that is not exposed any more. */
  cut(instanceId: string, port: number): void
  close(): void
}

export interface PortProxyOptions extends Omit<AccessRules, 'instances'> {
  readonly instances: Pick<Instances, 'findExposed' | 'use'>
  /** In lower case, without a port. */
  readonly domain: string
  readonly stallTimeoutMs: number
  readonly logger?: FastifyBaseLogger | undefined
  /** Whether the node takes no new requests. */
  readonly isClosing: () => boolean
  readonly pool?: UpstreamPool
}

/** After so long without a byte, the kernel asks whether the client is still there. */
const KEEP_ALIVE_MS = 30_000

/** One request, or one connection after its upgrade. */
interface Live {
  readonly exposure: Exposure
  end(): void
}

export const openPortProxy = (options: PortProxyOptions): PortProxy => {
  const { domain } = options
  const context: Context = { ...options, pool: options.pool ?? upstreamPool(), live: new Set() }
  return {
    request: (request, response, waitsToContinue = false) => {
      const address = portAddress(request.headers.host, request.url ?? '', domain)
      if (!address) return false
      serve(context, { request, response, address, waitsToContinue }).catch((error: unknown) => {
        refuse(request, response, shown(context, error))
      })
      return true
    },
    takesUpgrade: ({ headers, url = '' }) => {
      // Clients offer HTTP/2 on the side, and take no answer for an answer.
      if (headers.upgrade === undefined || /h2c/i.test(headers.upgrade)) return false
      return portAddress(headers.host, url, domain) !== undefined
    },
    upgrade: (asked) => {
      const { request, socket } = asked
      const address = portAddress(request.headers.host, request.url ?? '', domain)
      if (!address) return false
      if ('setKeepAlive' in socket) (socket as Socket).setKeepAlive(true, KEEP_ALIVE_MS)
      serveUpgrade(context, asked, address).catch((error: unknown) => {
        if (!socket.destroyed) refuseUpgrade(asked, shown(context, error))
      })
      return true
    },
    cut: (instanceId, port) => {
      context.pool.drop(instanceId, port)
      for (const one of context.live)
        if (one.exposure.instanceId === instanceId && one.exposure.port === port) one.end()
    },
    close: () => {
      for (const one of context.live) one.end()
      context.pool.close()
    },
  }
}

interface Context extends PortProxyOptions {
  readonly pool: UpstreamPool
  readonly live: Set<Live>
}

interface Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly address: PortAddress
  readonly waitsToContinue: boolean
}

const admitOrThrow = (context: Context, request: IncomingMessage, address: PortAddress): Access => {
  if (context.isClosing())
    throw new BrambleError('shutting_down', { detail: 'the gateway takes no new requests', retryAfterMs: 1000 })
  return admit(context, request, address)
}

const serve = async (context: Context, { request, response, address, waitsToContinue }: Asked): Promise<void> => {
  const access = admitOrThrow(context, request, address)
  const { exposure } = access
  if (isNavigation(request)) {
    if (access.signed) return keepSignature(response, address, access)
    // Relative links of the page begin where it is.
    if (address.prefix !== '' && !access.target.startsWith('/')) {
      response.writeHead(308, { location: `${address.prefix}/${access.target}` }).end()
      return
    }
  }
  const body = requestBody(request)
  const head = requestHead(request, { access, prefix: address.prefix, body })
  const { method = 'GET' } = request
  const repeatable = body.kind === 'none' && REPEATABLE.has(method)
  const shownAs = { prefix: address.prefix, host: request.headers.host }
  const signal = (): AbortSignal => goneSignal(response)
  const live: Live = { exposure, end: () => response.destroy() }
  context.live.add(live)
  try {
    using lease = await context.instances.use(exposure.instanceId, exposure.tenant)
    if (response.destroyed) return
    for (let isRepeated = false; ; isRepeated = true) {
      const taken = context.pool.take(lease, exposure, { fresh: isRepeated || !repeatable, signal })
      const upstream = taken instanceof Promise ? await taken : taken
      if (waitsToContinue && !isRepeated) response.writeContinue()
      const wasUsed = upstream.served > 0
      const { stallTimeoutMs } = context
      const end = await exchange({ request, response, upstream, head, body, shown: shownAs, stallTimeoutMs })
      if (end.type === 'kept') context.pool.give(upstream, exposure)
      if (end.type !== 'lost' || !end.unanswered) return
      // An app may close a connection at the moment it is used again (RFC 9112, 9.3.1).
      if (wasUsed && repeatable && !isRepeated && !upstream.heard && !response.destroyed) continue
      throw brokenBy(end)
    }
  } finally {
    context.live.delete(live)
  }
}

/** Aborts when the client's side is closed. Most requests need none: they do not wait. */
const goneSignal = (stream: ServerResponse | Duplex): AbortSignal => {
  const controller = new AbortController()
  const abort = (): void => controller.abort(new BrambleError('cancelled', { detail: 'the client went away' }))
  if (stream.destroyed) abort()
  else stream.once('close', abort)
  return controller.signal
}

/** Idempotent by their definition (RFC 9110, 9.2.2). */
const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

const brokenBy = ({ error }: Extract<ExchangeEnd, { type: 'lost' }>): BrambleError =>
  error instanceof BrambleError
    ? error
    : new BrambleError('bad_response', {
        detail: `the app: ${error?.message ?? 'it closed the connection without an answer'}`,
        cause: error,
      })

const serveUpgrade = async (
  context: Context,
  { request, socket, head: early }: Upgrade,
  address: PortAddress,
): Promise<void> => {
  const access = admitOrThrow(context, request, address)
  const { exposure } = access
  const body = requestBody(request)
  if (body.kind !== 'none')
    throw new BrambleError('invalid_request', { detail: 'a request that switches protocols has no body' })
  const head = requestHead(request, { access, prefix: address.prefix, body, upgrade: request.headers.upgrade })
  const live: Live = { exposure, end: () => void socket.destroy() }
  context.live.add(live)
  try {
    using lease = await context.instances.use(exposure.instanceId, exposure.tenant)
    const upstream = await context.pool.take(lease, exposure, { fresh: true, signal: () => goneSignal(socket) })
    const shownAs = { prefix: address.prefix, host: request.headers.host }
    await upgrade({ request, socket, early, upstream, head, shown: shownAs })
  } finally {
    context.live.delete(live)
  }
}

const isNavigation = (request: IncomingMessage): boolean =>
  (request.method === 'GET' || request.method === 'HEAD') && wantsPage(request)

/** A browser follows to the same address without the signature, which it shows as a cookie from then on. */
const keepSignature = (response: ServerResponse, address: PortAddress, { signed, target }: Access): void => {
  const maxAge = Math.max(0, Math.floor((Number(signed?.expires) - Date.now()) / 1000))
  const path = target.startsWith('/') ? target : `/${target}`
  response
    .writeHead(303, {
      location: address.prefix + path,
      'set-cookie':
        `${COOKIE}=${signed?.expires}.${signed?.signature}; Path=${address.prefix || '/'}; ` +
        `Max-Age=${maxAge}; HttpOnly; SameSite=Lax`,
      'cache-control': 'no-store',
      'referrer-policy': 'no-referrer',
    })
    .end()
}

/** What the client sees of a failure; what is the node's own fault is logged. */
const shown = (context: Context, thrown: unknown): BrambleError => {
  const error = thrown instanceof BrambleError ? thrown : presentable(toBrambleError(thrown).cause ?? thrown)
  if (error.code === 'internal') context.logger?.error({ code: error.code, err: error.cause ?? error }, error.detail)
  return error
}
