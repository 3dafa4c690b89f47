import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'

/** A request as it came over the wire. */
export interface RawRequest {
  readonly method: string
  readonly path: string
  readonly headers: Record<string, string>
  readonly body: string
}

/** Answers one request with whatever bytes it likes, or breaks the connection. */
export type Script = (socket: Socket, request: RawRequest) => unknown

export interface ScriptedServer extends AsyncDisposable {
  readonly url: string
  readonly requests: RawRequest[]
}

/**
 * A server that speaks HTTP/1.1 by hand, so that it can also speak it badly. The first request gets the first script, and
 * so on; the last script answers everything after it.
 */
export const scriptedServer = async (...scripts: Script[]): Promise<ScriptedServer> => {
  const requests: RawRequest[] = []
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => undefined)
    let received = ''
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      for (let request = take(); request !== undefined; request = take()) {
        const script = scripts[Math.min(requests.length, scripts.length - 1)]
        requests.push(request)
        script?.(socket, request)
      }
    })
    const take = (): RawRequest | undefined => {
      const head = received.indexOf('\r\n\r\n')
      if (head === -1) return undefined
      const [first = '', ...lines] = received.slice(0, head).split('\r\n')
      const headers: Record<string, string> = {}
      for (const line of lines) headers[line.slice(0, line.indexOf(':')).toLowerCase()] = line.replace(/^[^:]*: */, '')
      const end = head + 4 + Number(headers['content-length'] ?? 0)
      if (received.length < end) return undefined
      const body = received.slice(head + 4, end)
      received = received.slice(end)
      const [method = '', path = ''] = first.split(' ')
      return { method, path, headers, body }
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return {
    url: `http://127.0.0.1:${address.port}`,
    requests,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

export const answer = (status: number, headers: Record<string, string>, body: string): Script => {
  const lines = Object.entries({ 'content-length': String(Buffer.byteLength(body)), ...headers })
  return (socket) => {
    socket.write(`HTTP/1.1 ${status} x\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`)
  }
}

export const json = (value: unknown, status = 200): Script =>
  answer(status, { 'content-type': 'application/json' }, JSON.stringify(value))

export const SSE_HEAD = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n'

/** A stream of these events, then the end of the connection. */
export const events = (...list: unknown[]): Script => {
  return (socket) => {
    socket.end(SSE_HEAD + list.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(''))
  }
}
