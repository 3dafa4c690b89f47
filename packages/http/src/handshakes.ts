import { BrambleError } from '@bramble/protocol'
import { type ServerOptions, type WebSocket, WebSocketServer } from 'ws'
import { refuseUpgrade, type Upgrade } from './upgrades.ts'

/** Answers a handshake (RFC 6455, section 4.2). Undefined: the client went, or was told that its handshake is none. */
export type Handshake = (upgrade: Upgrade) => Promise<WebSocket | undefined>

/** Of WebSockets with these options; `noServer` among them. */
export const handshakes = (options: ServerOptions & { readonly noServer: true }): Handshake => {
  const server = new WebSocketServer(options)
  const underWay = new WeakMap<object, Upgrade>()
  server.on('wsClientError', (error, socket, request) => {
    const upgrade = underWay.get(request)
    if (upgrade) refuseUpgrade(upgrade, new BrambleError('invalid_request', { detail: error.message, cause: error }))
    else socket.destroy()
  })
  return (upgrade) =>
    new Promise((resolve) => {
      const { request, socket, head } = upgrade
      const fail = (): void => resolve(undefined)
      socket.once('close', fail)
      if (socket.destroyed) return fail()
      underWay.set(request, upgrade)
      server.handleUpgrade(request, socket, head, (ws) => {
        socket.off('close', fail)
        resolve(ws)
      })
    })
}
