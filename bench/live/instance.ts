import { WebSocket } from 'ws'
import type { NodeProcess } from '../../test/node-process.ts'

export interface StreamMessage {
  readonly type: string
  readonly id?: string
  readonly data?: string
  readonly code?: number
  readonly seq?: number
  readonly message?: string
}

/** A stream or terminal of an instance, open; closed on disposal. */
export interface Socket extends AsyncDisposable {
  readonly raw: WebSocket
  send(message: object | Uint8Array): void
}

export const startInstance = async (node: NodeProcess, spec: object = {}): Promise<string> =>
  (await node.call<{ id: string }>('POST', '/api/v1/instances', spec)).id

export const deleteInstance = (node: NodeProcess, id: string): Promise<unknown> =>
  node.call('DELETE', `/api/v1/instances/${id}`)

export const openSocket = async (node: NodeProcess, path: string): Promise<Socket> => {
  const raw = new WebSocket(`${node.url.replace(/^http/, 'ws')}${path}`, {
    headers: { authorization: `Bearer ${node.key}` },
    perMessageDeflate: false,
    maxPayload: 64 * 1024 * 1024,
  })
  const closed = new Promise<void>((resolve) => raw.once('close', () => resolve()))
  await new Promise<void>((resolve, reject) => {
    raw.once('open', resolve)
    raw.once('error', reject)
  })
  return {
    raw,
    send: (message) => raw.send(message instanceof Uint8Array ? message : JSON.stringify(message)),
    [Symbol.asyncDispose]: async () => {
      raw.close()
      await closed
    },
  }
}

/** Calls back for each JSON message of a stream. */
export const onMessage = (socket: Socket, take: (message: StreamMessage) => void): void => {
  socket.raw.on('message', (data, binary) => {
    if (!binary) take(JSON.parse(String(data)) as StreamMessage)
  })
}
