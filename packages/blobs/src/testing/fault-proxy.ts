import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout } from 'node:timers/promises'

/** What goes wrong with a request on its way to the server, or with its answer. */
export type Fault =
  /** The connection is cut before anything of an answer. */
  | { readonly kind: 'cut' }
  /** Never an answer. */
  | { readonly kind: 'hang' }
  | { readonly kind: 'slow'; readonly delayMs: number }
  /** The server is not asked. */
  | { readonly kind: 'status'; readonly status: number; readonly code: string }
  /** The answer ends after `bytes` bytes of its body: with the connection, or as if that were all of it. */
  | { readonly kind: 'truncate'; readonly bytes: number; readonly silent: boolean }
  /** The answer stops after `bytes` bytes, and the connection stays. */
  | { readonly kind: 'stall'; readonly bytes: number }
  /** One bit of the answer's body is another, or of the request's. */
  | { readonly kind: 'flip'; readonly at: number; readonly of: 'answer' | 'request' }
  /** The answer is that to a request for another path. */
  | { readonly kind: 'other'; readonly path: string }
  /** The server does what was asked, and nobody is told. */
  | { readonly kind: 'swallow' }

export interface ProxiedRequest {
  readonly method: string
  /** With its query. */
  readonly path: string
}

/** A proxy on loopback before a real server, for what networks and servers do to their clients. */
export interface FaultProxy extends AsyncDisposable {
  readonly endpoint: string
  /** Asked of every request. Undefined, as at the start: nothing goes wrong. */
  fault: ((request: ProxiedRequest) => Fault | undefined) | undefined
  /** Requests that have come, faulty ones too. */
  readonly requests: readonly ProxiedRequest[]
  /** Nothing listens any more, and connections are cut, until `up`. */
  down(): Promise<void>
  up(): Promise<void>
  close(): Promise<void>
}

export const openFaultProxy = async (target: string): Promise<FaultProxy> => {
  const agent = new Agent({ keepAlive: true })
  const requests: ProxiedRequest[] = []
  const sockets = new Set<Socket>()
  const server = createServer({ keepAliveTimeout: 60_000 }, (incoming, response) => {
    const asked = { method: incoming.method ?? '', path: incoming.url ?? '' }
    requests.push(asked)
    carry({ incoming, response, target, agent, fault: proxy.fault?.(asked) }).catch(() => response.destroy())
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  server.on('checkContinue', (incoming, response) => {
    response.writeContinue()
    server.emit('request', incoming, response)
  })
  const listen = async (port: number): Promise<void> => {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
  }
  await listen(0)
  const { port } = server.address() as AddressInfo
  const down = async (): Promise<void> => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }
  const close = async (): Promise<void> => {
    await down()
    agent.destroy()
  }
  const proxy: FaultProxy = {
    endpoint: `http://127.0.0.1:${port}`,
    fault: undefined,
    requests,
    down,
    up: async () => {
      if (!server.listening) await listen(port)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
  return proxy
}

interface Carried {
  readonly incoming: IncomingMessage
  readonly response: ServerResponse
  readonly target: string
  readonly agent: Agent
  readonly fault: Fault | undefined
}

const carry = async ({ incoming, response, target, agent, fault }: Carried): Promise<void> => {
  if (fault?.kind === 'cut') return void incoming.socket.destroy()
  if (fault?.kind === 'hang') return
  if (fault?.kind === 'slow') {
    await Promise.race([setTimeout(fault.delayMs, undefined, { ref: false }), once(response, 'close')])
    if (response.destroyed) return
  }
  if (fault?.kind === 'status') return refuse(incoming, response, fault)
  const path = fault?.kind === 'other' ? fault.path : incoming.url
  const upstream = request(new URL(path ?? '/', target), {
    method: incoming.method,
    headers: incoming.headers,
    agent,
  })
  const answered = once(upstream, 'response')
  // The request itself may fail first, and is what is waited for.
  answered.catch(() => undefined)
  const flipsRequest = fault?.kind === 'flip' && fault.of === 'request'
  await pipeline([incoming, ...(flipsRequest ? [flip(fault.at)] : []), upstream])
  const [answer] = (await answered) as [IncomingMessage]
  if (fault?.kind === 'swallow') {
    answer.resume()
    await once(answer, 'end')
    return void incoming.socket.destroy()
  }
  const headers = { ...answer.headers }
  if (fault?.kind === 'truncate' && fault.silent) headers['content-length'] = String(fault.bytes)
  response.writeHead(answer.statusCode ?? 502, headers)
  switch (fault?.kind) {
    case 'truncate':
      if (!fault.silent) return passSome(answer, response, fault.bytes, () => incoming.socket.destroy())
      return passSome(answer, response, fault.bytes, () => response.end())
    case 'stall':
      return passSome(answer, response, fault.bytes, () => undefined)
    case 'flip':
      return pipeline([answer, ...(fault.of === 'answer' ? [flip(fault.at)] : []), response])
    default:
      return pipeline(answer, response)
  }
}

const refuse = async (
  incoming: IncomingMessage,
  response: ServerResponse,
  { status, code }: Fault & { kind: 'status' },
): Promise<void> => {
  incoming.resume()
  if (!incoming.readableEnded) await once(incoming, 'end')
  const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`
  response.writeHead(status, { 'content-type': 'application/xml', 'content-length': body.length })
  response.end(incoming.method === 'HEAD' ? undefined : body)
}

const passSome = async (
  answer: IncomingMessage,
  response: ServerResponse,
  bytes: number,
  then: () => void,
): Promise<void> => {
  let left = bytes
  for await (const piece of answer as AsyncIterable<Buffer>) {
    if (left > 0) await new Promise((resolve) => response.write(piece.subarray(0, left), resolve))
    left -= piece.length
  }
  then()
}

/** Changes the lowest bit of the byte at `at`. */
const flip = (at: number): Transform => {
  let seen = 0
  return new Transform({
    transform: (piece: Buffer, _encoding, done) => {
      const changed = Buffer.from(piece)
      const index = at - seen
      if (index >= 0 && index < piece.length) changed.writeUInt8(changed.readUInt8(index) ^ 1, index)
      seen += piece.length
      done(null, changed)
    },
  })
}
