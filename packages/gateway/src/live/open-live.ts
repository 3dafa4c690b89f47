import {
  type Caller,
  handshakes,
  presentable,
  refuseUpgrade,
  requireOrigin,
  requireScope,
  type Upgrade,
  type UpgradeHandler,
} from '@bramble/http'
import {
  BrambleError,
  instanceRefSchema,
  parse,
  ptyQuerySchema,
  type Scope,
  streamQuerySchema,
  tunnelQuerySchema,
} from '@bramble/protocol'
import { z } from 'zod'
import type { GatewayContext } from '../context.ts'
import { errorText, type LiveCall, type LiveConnection, untilClosed } from './live-call.ts'
import type { LiveKind } from './live-registry.ts'
import { CLOSE, liveSocket, SOCKET_OPTIONS } from './live-socket.ts'
import { preparePty } from './pty.ts'
import { type PtySessions, ptySessions } from './pty-sessions.ts'
import { prepareStream } from './stream-connection.ts'
import { prepareTunnel } from './tunnel.ts'

const PATH = /^\/api\/v1\/(?:containers|instances)\/([^/]+)\/(stream|pty|tunnel)(?:\/([^/]+))?$/
const portSchema = z.object({ port: z.coerce.number().pipe(z.int().min(1).max(65_535)) })

/** What a path asks for. */
interface Target {
  readonly ref: string
  readonly kind: LiveKind
  readonly port: string | undefined
}

const SCOPES: Readonly<Record<LiveKind, Scope>> = { stream: 'read', pty: 'execute', tunnel: 'execute' }
const STALL_MESSAGE = errorText('slow_consumer', 'nothing that was sent was taken')

/** The WebSockets of instances: their streams, terminals and tunnels. */
export interface Live {
  readonly handle: UpgradeHandler
  /** Ends the connections; what runs in the instances runs on. */
  close(): Promise<void>
}

export const openLive = (context: GatewayContext): Live => {
  const sessions = ptySessions(context)
  const shake = handshakes(SOCKET_OPTIONS)
  const connect = async (upgrade: Upgrade, target: Target): Promise<void> => {
    const observe = observer(context, upgrade, target.kind)
    const gone = new AbortController()
    const onGone = (): void => gone.abort(new BrambleError('cancelled', { detail: 'the client closed the connection' }))
    upgrade.socket.on('close', onGone)
    try {
      const caller = admit(context, upgrade, SCOPES[target.kind])
      observe.caller = caller
      const ref = parse(instanceRefSchema, target.ref)
      using lease = await context.engine.instances.use(ref, caller.tenant, { signal: gone.signal })
      using place = context.live.take(lease.id, target.kind)
      const query = Object.fromEntries(upgrade.query)
      const connection = await prepare(target, { context, caller, lease, query, signal: gone.signal }, sessions)
      const ws = await shake(upgrade)
      if (!ws) {
        connection.abandon?.()
        return observe.end(upgrade.socket.destroyed ? 499 : 400)
      }
      const socket = liveSocket(ws, {
        limits: context.limits,
        count: context.metrics.liveBytes,
        stallMessage: target.kind === 'tunnel' ? undefined : STALL_MESSAGE,
      })
      place.set(socket)
      observe.answered(101)
      try {
        await connection.run(socket)
      } catch (error) {
        observe.failed(error)
        socket.close(CLOSE.internal, 'internal')
      }
      await untilClosed(socket)
      observe.end(101)
    } catch (error) {
      if (gone.signal.aborted) return observe.end(499)
      if (presentable(error).status >= 500) observe.failed(error)
      observe.end(refuseUpgrade(upgrade, error))
    } finally {
      upgrade.socket.off('close', onGone)
    }
  }

  return {
    handle: (upgrade) => {
      const [, ref, kind, port] = PATH.exec(upgrade.path) ?? []
      if (ref === undefined || (kind === 'tunnel') !== (port !== undefined)) return false
      void connect(upgrade, { ref, kind: kind as LiveKind, port })
      return true
    },
    close: async () => {
      await context.live.close()
      sessions.close()
    },
  }
}

const prepare = async (target: Target, call: LiveCall, sessions: PtySessions): Promise<LiveConnection> => {
  switch (target.kind) {
    case 'stream':
      return prepareStream({ ...call, query: parse(streamQuerySchema, call.query) })
    case 'pty':
      return preparePty({ ...call, query: parse(ptyQuerySchema, call.query) }, sessions)
    case 'tunnel':
      parse(tunnelQuerySchema, call.query)
      return await prepareTunnel(call, parse(portSchema, { port: target.port }).port)
    default:
      return target.kind satisfies never
  }
}

/** Who connects, may they, how often, and from a page that may. */
const admit = ({ authenticate, corsOrigins }: GatewayContext, { request, query }: Upgrade, scope: Scope): Caller => {
  const caller = authenticate(request, query.get('token') ?? undefined)
  requireOrigin(corsOrigins, request)
  requireScope(caller, scope)
  const rate = caller.bucket?.take()
  if (rate && !rate.allowed)
    throw new BrambleError('rate_limited', {
      detail: `this key may send ${caller.quota.requestsPerSecond} requests a second`,
      retryAfterMs: rate.waitMs,
    })
  return caller
}

interface Observer {
  caller?: Caller
  answered(status: number): void
  end(status: number): void
  failed(error: unknown): void
}

/** One line of log and one observation for each connection, when it is over. */
const observer = ({ metrics, log }: GatewayContext, { requestId }: Upgrade, kind: LiveKind) => {
  const startedAt = performance.now()
  let answered = false
  const route = `/api/v1/instances/:id/${kind === 'tunnel' ? 'tunnel/:port' : kind}`
  const state: Observer = {
    answered: (status) => {
      metrics.request({ method: 'GET', route, status, seconds: (performance.now() - startedAt) / 1000 })
      answered = true
    },
    end: (status) => {
      if (!answered) state.answered(status)
      const ms = performance.now() - startedAt
      const { caller } = state
      log?.info(
        {
          requestId,
          method: 'GET',
          route,
          status,
          ms: Math.round(ms * 1000) / 1000,
          ...(caller && { tenant: caller.tenant, keyId: caller.keyId }),
        },
        'request',
      )
    },
    failed: (error) => log?.error({ requestId, route, err: error }, 'a connection of an instance failed'),
  }
  return state
}
