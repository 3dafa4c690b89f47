import { BrambleError, LIMITS } from '@bramble/protocol'
import type { GatewayLimits } from '../limits.ts'
import { CLOSE, type LiveSocket } from './live-socket.ts'

export const LIVE_KINDS = ['stream', 'pty', 'tunnel'] as const
export type LiveKind = (typeof LIVE_KINDS)[number]

/** The WebSockets of a gateway that are open. */
export interface LiveRegistry {
  /** How many of each kind. */
  open(): Readonly<Record<LiveKind, number>>
  /** Takes a place for one more at an instance, or throws `quota_exceeded`. The place is given back once. */
  take(instanceId: string, kind: LiveKind): LivePlace
  /** Closes all of them, for a node that goes away for a while: clients connect again. */
  close(): Promise<void>
}

export interface LivePlace extends Disposable {
  /** The socket that has the place. */
  set(socket: LiveSocket): void
}

export const liveRegistry = (limits: Pick<GatewayLimits, 'maxTunnels'>): LiveRegistry => {
  const open = { stream: 0, pty: 0, tunnel: 0 }
  const byInstance = new Map<string, number>()
  const sockets = new Set<LiveSocket>()
  let emptied: (() => void) | undefined

  return {
    open: () => ({ ...open }),
    take: (instanceId, kind) => {
      // Tunnels are apart: one page of a browser opens many.
      const id = kind === 'tunnel' ? `tunnel:${instanceId}` : instanceId
      const most = kind === 'tunnel' ? limits.maxTunnels : LIMITS.maxStreams.value
      const taken = byInstance.get(id) ?? 0
      if (taken >= most)
        throw new BrambleError('quota_exceeded', {
          detail: `the instance has ${taken} ${kind === 'tunnel' ? 'tunnels' : 'streams and terminals'} open`,
          retryAfterMs: 1000,
        })
      byInstance.set(id, taken + 1)
      open[kind]++
      let socket: LiveSocket | undefined
      let released = false
      return {
        set: (opened) => {
          socket = opened
          sockets.add(opened)
        },
        [Symbol.dispose]: () => {
          if (released) return
          released = true
          open[kind]--
          const left = (byInstance.get(id) ?? 1) - 1
          if (left === 0) byInstance.delete(id)
          else byInstance.set(id, left)
          if (socket) sockets.delete(socket)
          if (sockets.size === 0) emptied?.()
        },
      }
    },
    close: async () => {
      if (sockets.size === 0) return
      const { promise, resolve } = Promise.withResolvers<void>()
      emptied = resolve
      for (const socket of [...sockets]) socket.close(CLOSE.restart, 'the node goes away for a moment')
      await promise
    },
  }
}
