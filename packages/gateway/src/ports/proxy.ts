import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { refuseUpgrade, type Upgrade, type UpgradeHandler } from '@bramble/http'
import { BrambleError } from '@bramble/protocol'
import { type Access, COOKIE } from './access.ts'
import { type PortAddress, portAddress } from './address.ts'
import { PortConnection } from './connection.ts'
import {
  admitOrThrow,
  brokenBy,
  isNavigation,
  type Live,
  type PortContext,
  type PortProxyOptions,
  REPEATABLE,
  shown,
} from './context.ts'
import { exchange } from './exchange.ts'
import { upstreamPool } from './pool.ts'
import { refuse } from './refuse.ts'
import { requestBody, requestHead } from './request-head.ts'
import { upgrade } from './upgrade.ts'

/**
 * The way from a client to a port of an instance: `ANY /p/<instance>/<port>/*` and `Host: <port>-<instance>.<domain>`. It
 * works on the server of node:http, before routes are looked at, since every request of every app goes through it.
 */
export interface PortProxy {
  /**
   * Takes a new connection to the server: plain requests for ports are answered without node:http. `pass` is called where
   * anything else comes, and gives the socket to node:http, for good.
   */
  connection(socket: Socket, pass: () => void): void
  /** Answers a request that is for a port; false for any other, which it leaves alone. */
  request(request: IncomingMessage, response: ServerResponse, waitsToContinue?: boolean): boolean
  /** Whether a request that asks to switch protocols is for a port, and may: else it is answered as if it had not asked. */
  takesUpgrade(request: IncomingMessage): boolean
  readonly upgrade: UpgradeHandler
  /** Ends what goes on for a port that is not exposed any more. */
  cut(instanceId: string, port: number): void
  close(): void
}

/** After so long without a byte, the kernel asks whether the client is still there. */
const KEEP_ALIVE_MS = 30_000

/** How often connections that wait for too long are looked for. */
const SWEEP_MS = 1_000

export const openPortProxy = (options: PortProxyOptions): PortProxy => {
  const { domain } = options
  const context: PortContext = { ...options, pool: options.pool ?? upstreamPool(), live: new Set() }
  const connections = new Set<PortConnection>()
  const sweep = setInterval(
    () => {
      const now = performance.now()
      for (const connection of connections) connection.sweep(now)
    },
    Math.min(SWEEP_MS, options.headersTimeoutMs),
  )
  sweep.unref()
  let closed = false
  return {
    connection: (socket, pass) => {
      if (closed) return pass()
      const connection: PortConnection = new PortConnection(context, socket, pass, () => connections.delete(connection))
      connections.add(connection)
    },
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
      closed = true
      clearInterval(sweep)
      for (const connection of connections) connection.close()
      for (const one of context.live) one.end()
      context.pool.close()
    },
  }
}

interface Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly address: PortAddress
  readonly waitsToContinue: boolean
}

const serve = async (context: PortContext, { request, response, address, waitsToContinue }: Asked): Promise<void> => {
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

const serveUpgrade = async (
  context: PortContext,
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
