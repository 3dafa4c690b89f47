import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

export interface Answer {
  readonly status: number
  readonly body: string
}

/** HTTP/1.1 on kept-alive connections, one request at a time on each: what a load generator needs, and no more. */
export interface HttpPool extends Disposable {
  /** Waits for a free connection. */
  request(method: 'GET' | 'POST', path: string, body?: string): Promise<Answer>
}

const HEAD_END = Buffer.from('\r\n\r\n')

interface Connection {
  readonly socket: Socket
  ask(request: string): Promise<Answer>
}

const open = async (host: string, port: number): Promise<Connection> => {
  const socket = connect({ host, port, noDelay: true })
  await once(socket, 'connect')
  let waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void } | undefined
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const end = rest.indexOf(HEAD_END)
    if (end < 0) return
    const head = rest.toString('latin1', 0, end)
    const length = Number(/content-length: *(\d+)/i.exec(head)?.[1])
    if (!Number.isInteger(length)) {
      waiting?.reject(new Error(`an answer without a length: ${head}`))
      return
    }
    const last = end + HEAD_END.length + length
    if (rest.length < last) return
    const answer = { status: Number(head.slice(9, 12)), body: rest.toString('utf8', end + HEAD_END.length, last) }
    rest = rest.subarray(last)
    const { resolve } = waiting ?? {}
    waiting = undefined
    resolve?.(answer)
  })
  const broken = (error: Error): void => waiting?.reject(error)
  socket.on('error', broken)
  socket.on('close', () => broken(new Error('the connection was closed')))
  return {
    socket,
    ask: (request) =>
      new Promise((resolve, reject) => {
        waiting = { resolve, reject }
        socket.write(request)
      }),
  }
}

export const openHttpPool = async (url: string, key: string, connections: number): Promise<HttpPool> => {
  const { hostname, port, host } = new URL(url)
  const all = await Promise.all(Array.from({ length: connections }, () => open(hostname, Number(port))))
  const free = [...all]
  const queue: ((connection: Connection) => void)[] = []
  const common = `host: ${host}\r\nauthorization: Bearer ${key}\r\n`
  return {
    request: async (method, path, body) => {
      const connection = free.pop() ?? (await new Promise<Connection>((resolve) => queue.push(resolve)))
      try {
        const headers =
          body === undefined ? '' : `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n`
        return await connection.ask(`${method} ${path} HTTP/1.1\r\n${common}${headers}\r\n${body ?? ''}`)
      } finally {
        const next = queue.shift()
        if (next) next(connection)
        else free.push(connection)
      }
    },
    [Symbol.dispose]: () => {
      for (const { socket } of all) socket.destroy()
    },
  }
}
