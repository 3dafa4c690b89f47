import { randomBytes } from 'node:crypto'
import {
  type Handshake,
  handshakes,
  presentable,
  refuseUpgrade,
  type Upgrade,
  type UpgradeHandler,
} from '@bramble/http'
import { BrambleError, LIMITS, type NodeId, nodeIdSchema } from '@bramble/protocol'
import type { ServerOptions } from 'ws'
import { clientOf, subnetOf } from '../address.ts'
import type { FrontContext } from '../front-context.ts'
import { SessionConnection } from './session-connection.ts'

/** The streams of workers that end at this coordinator. */
export interface WorkerSessions {
  readonly handle: UpgradeHandler
  readonly size: number
  /** Tells workers to come back, to any coordinator, each at a moment of its own; ends their streams. */
  close(): Promise<void>
}

const PATH = /^\/api\/v1\/nodes\/([^/]+)\/session$/

/** The code of a frame, and its JSON. */
const MAX_MESSAGE_BYTES = LIMITS.maxFrameBytes.value + 64

const SOCKET_OPTIONS: ServerOptions & { noServer: true } = {
  noServer: true,
  clientTracking: false,
  // Memory for each connection, and frames are small.
  perMessageDeflate: false,
  maxPayload: MAX_MESSAGE_BYTES,
}

/** How often silence and unanswered challenges are looked for. */
const SWEEP_MS = 1000
/** Within it, workers of a coordinator that goes away come back. */
const SPREAD_MS = 2000
const CLOSE_MS = 1000

export const openWorkerSessions = (context: FrontContext): WorkerSessions => {
  const { limits, rates, log, metrics, shutdown } = context
  const connections = new Set<SessionConnection>()
  let opening = 0
  let emptied: (() => void) | undefined
  const shake: Handshake = handshakes(SOCKET_OPTIONS)

  const sweep = setInterval(() => {
    const now = performance.now()
    for (const connection of connections) connection.sweep(now)
  }, SWEEP_MS)
  sweep.unref()

  const connect = async (upgrade: Upgrade, id: string): Promise<void> => {
    const address = context.addressOf(upgrade.request)
    try {
      rates.failures.check(clientOf(address))
      const node = nodeIdSchema.safeParse(id)
      if (!node.success)
        throw new BrambleError('not_found', { detail: `\`${id.slice(0, 64)}\` is not the id of a node` })
      if (connections.size >= limits.maxSessions || opening >= limits.maxOpeningSessions)
        throw new BrambleError('queue_full', {
          detail: `${connections.size} workers have their streams here`,
          retryAfterMs: Math.round(1000 + Math.random() * SPREAD_MS),
        })
      const ws = await shake(upgrade)
      if (ws) begin(ws, node.data, address)
    } catch (error) {
      const status = refuseUpgrade(upgrade, presentable(error))
      metrics.request({ method: 'GET', route: '/api/v1/nodes/:id/session', status, seconds: 0 })
    }
  }

  const begin = (ws: ConstructorParameters<typeof SessionConnection>[1], node: NodeId, address: string): void => {
    opening++
    const connection = new SessionConnection(context, ws, {
      node,
      subnet: subnetOf(address),
      client: clientOf(address),
      challenge: {
        type: 'challenge',
        version: 1,
        nonce: `0x${randomBytes(32).toString('hex')}`,
        network: context.networkId,
        publicKey: context.identity.publicKey,
        serverTimeMs: context.now(),
      },
      opened: () => {
        opening--
      },
      ended: (reason, wasOpening) => {
        if (wasOpening) opening--
        connections.delete(connection)
        metrics.sessionEnded(reason)
        log?.info({ node, reason }, 'a worker’s stream ended')
        if (connections.size === 0) emptied?.()
      },
    })
    connections.add(connection)
    metrics.request({ method: 'GET', route: '/api/v1/nodes/:id/session', status: 101, seconds: 0 })
    if (shutdown.closing) leave(connection)
  }

  const leave = (connection: SessionConnection): void =>
    connection.bye(
      new BrambleError('shutting_down', { detail: 'this coordinator goes away' }),
      Math.round(Math.random() * SPREAD_MS),
    )

  return {
    handle: (upgrade) => {
      const [, id] = PATH.exec(upgrade.path) ?? []
      if (id === undefined) return false
      void connect(upgrade, id)
      return true
    },
    get size() {
      return connections.size
    },
    close: async () => {
      for (const connection of [...connections]) leave(connection)
      if (connections.size > 0) {
        const { promise, resolve } = Promise.withResolvers<void>()
        emptied = resolve
        const timer = setTimeout(() => {
          for (const connection of [...connections]) connection.terminate('shutting_down')
        }, CLOSE_MS)
        await promise
        clearTimeout(timer)
      }
      clearInterval(sweep)
    },
  }
}
