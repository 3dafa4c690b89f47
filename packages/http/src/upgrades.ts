import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import { BrambleError, newId } from '@bramble/protocol'
import type { HttpContext } from './context.ts'
import { presentable } from './problems.ts'

/** A request to go on with another protocol (RFC 9110, section 7.8), before anybody answered it. */
export interface Upgrade {
  readonly request: IncomingMessage
  readonly socket: Duplex
  /** What the client sent after the request. */
  readonly head: Buffer
  readonly requestId: string
  /** The path as it came, percent-encoded. */
  readonly path: string
  readonly query: URLSearchParams
}

/** True: it is taken, and its socket is the handler's from here on. Throws to refuse it. */
export type UpgradeHandler = (upgrade: Upgrade) => boolean

/** Offers each upgrade to the handlers in turn; what nobody takes is a route that is not there. */
export const listenForUpgrades = (
  server: Server,
  context: Pick<HttpContext, 'shutdown'>,
  handlers: readonly UpgradeHandler[],
): void => {
  const open = new Set<Duplex>()
  upgraded.set(server, open)
  function forgetThis(this: Duplex): void {
    open.delete(this)
  }
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    open.add(socket)
    socket.on('error', destroyThis).on('close', forgetThis)
    const [path = '', query = ''] = (request.url ?? '').split('?', 2)
    const upgrade = { request, socket, head, requestId: newId('request'), path, query: new URLSearchParams(query) }
    try {
      if (context.shutdown.closing)
        throw new BrambleError('shutting_down', { detail: 'no new requests are taken', retryAfterMs: 1000 })
      if (handlers.some((handle) => handle(upgrade))) return
      throw new BrambleError('not_found', { detail: `there is no WebSocket at \`${path}\`` })
    } catch (error) {
      refuseUpgrade(upgrade, error)
    }
  })
}

/** Connections that went on with another protocol: node:http forgets them, and a server waits for them when it closes. */
const upgraded = new WeakMap<Server, Set<Duplex>>()

export const destroyUpgraded = (server: Server): void => {
  for (const socket of upgraded.get(server) ?? []) socket.destroy()
}

/** Of a client that goes in the middle of it. It holds nothing: it stays as long as the connection. */
function destroyThis(this: Duplex): void {
  this.destroy()
}

/** Answers an upgrade with a problem document, as any request, and ends the connection. Returns the status. */
export const refuseUpgrade = ({ socket, requestId }: Upgrade, thrown: unknown): number => {
  const error = presentable(thrown)
  const problem = error.toProblem(requestId)
  const body = JSON.stringify(problem)
  const lines = [
    `HTTP/1.1 ${problem.status} ${problem.code}`,
    'content-type: application/problem+json',
    `content-length: ${Buffer.byteLength(body)}`,
    `x-request-id: ${requestId}`,
    'cache-control: no-store',
    'connection: close',
  ]
  if (error.code === 'unauthorized') lines.push('www-authenticate: Bearer')
  if (error.retryAfterMs !== undefined) lines.push(`retry-after: ${Math.ceil(error.retryAfterMs / 1000)}`)
  if (socket.writable) socket.end(`${lines.join('\r\n')}\r\n\r\n${body}`)
  else socket.destroy()
  return problem.status
}
