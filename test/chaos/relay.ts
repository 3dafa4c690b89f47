import { once } from 'node:events'
import { request } from 'node:http'
import { createConnection, createServer, type NetConnectOpts, type Server, type Socket } from 'node:net'

const CONNECT_MS = 1_000
const CHECK_EVERY_MS = 500
const CHECK_MS = 1_500

const listen = async (server: Server, host: string): Promise<number> => {
  server.listen(0, host)
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

const stop = async (server: Server, sockets: Iterable<Socket>): Promise<void> => {
  for (const socket of sockets) socket.destroy()
  server.close()
  await once(server, 'close')
}

/** What is lost on the way: nothing, what goes to the server, its answers, or both. Nobody is told: connections stay open. */
export type Loss = 'none' | 'requests' | 'answers' | 'both'

/** A way to a server that can be broken in one direction. */
export interface Relay extends AsyncDisposable {
  readonly port: number
  lose(what: Loss): void
}

/** A connection that lost bytes is no stream any more: when the way is whole again it is reset, as a host that was gone does. */
export const openRelay = async (host: string, target: NetConnectOpts): Promise<Relay> => {
  const pairs = new Map<Socket, { readonly other: Socket; hurt: boolean }>()
  let losing: Loss = 'none'
  const server = createServer((client) => {
    const upstream = createConnection(target)
    const pair = { other: upstream, hurt: false }
    pairs.set(client, pair)
    const carry = (from: Socket, to: Socket, lost: readonly Loss[]): void => {
      from.on('data', (data) => {
        if (lost.includes(losing)) pair.hurt = true
        else if (!pair.hurt && !to.write(data)) from.pause()
      })
      to.on('drain', () => from.resume())
      from.on('error', () => {})
      from.on('close', () => {
        // Who is cut off does not hear of the other's end.
        if (losing === 'none') to.destroy()
        else pair.hurt = true
        if (from === client) pairs.delete(client)
        if (from === client) upstream.destroy()
      })
    }
    carry(client, upstream, ['requests', 'both'])
    carry(upstream, client, ['answers', 'both'])
  })
  const port = await listen(server, host)
  return {
    port,
    lose(what) {
      losing = what
      if (what !== 'none') return
      for (const [client, { other, hurt }] of pairs)
        if (hurt) {
          client.destroy()
          other.destroy()
        }
    },
    [Symbol.asyncDispose]: () =>
      stop(
        server,
        [...pairs].flatMap(([client, { other }]) => [client, other]),
      ),
  }
}

export interface Backend {
  readonly host: string
  readonly port: number
}

/** A plain load balancer: round robin over those that answer `/ready`; who does not loses its connections. */
export interface Balancer extends AsyncDisposable {
  readonly url: string
  readonly ready: number
}

export const openBalancer = async (host: string, backends: readonly Backend[]): Promise<Balancer> => {
  const states = backends.map((backend) => ({ backend, ready: false, sockets: new Set<Socket>() }))
  const clients = new Set<Socket>()
  let turn = 0

  const dial = async (): Promise<{ socket: Socket; sockets: Set<Socket> } | undefined> => {
    for (let tries = 0; tries < states.length; tries++) {
      const state = states[turn++ % states.length]
      if (!state?.ready) continue
      const socket = createConnection(state.backend)
      const timer = setTimeout(() => socket.destroy(new Error('no answer')), CONNECT_MS)
      const connected = await once(socket, 'connect').then(
        () => true,
        () => false,
      )
      clearTimeout(timer)
      if (connected) return { socket, sockets: state.sockets }
    }
    return undefined
  }
  const server = createServer({ pauseOnConnect: true }, (client) => {
    clients.add(client)
    client.on('error', () => {})
    client.on('close', () => clients.delete(client))
    void dial().then((dialled) => {
      if (!dialled || client.destroyed) {
        client.destroy()
        dialled?.socket.destroy()
        return
      }
      const { socket, sockets } = dialled
      sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
      })
      client.on('close', () => socket.destroy())
      client.pipe(socket)
      socket.pipe(client)
    })
  })
  const check = (state: (typeof states)[number]): Promise<void> =>
    new Promise((resolve) => {
      const asked = request({ ...state.backend, path: '/ready', timeout: CHECK_MS, agent: false }, (response) => {
        response.resume()
        settle(response.statusCode === 200)
      })
      const timer = setTimeout(() => asked.destroy(new Error('no answer')), CHECK_MS)
      const settle = (ready: boolean): void => {
        clearTimeout(timer)
        state.ready = ready
        if (!ready) for (const socket of state.sockets) socket.destroy()
        resolve()
      }
      asked.on('error', () => settle(false))
      asked.end()
    })
  let closed = false
  const checking = states.map(async (state) => {
    while (!closed) {
      await check(state)
      await new Promise((resolve) => setTimeout(resolve, CHECK_EVERY_MS))
    }
  })
  const port = await listen(server, host)
  return {
    url: `http://${host}:${port}`,
    get ready() {
      return states.filter(({ ready }) => ready).length
    },
    async [Symbol.asyncDispose]() {
      closed = true
      await Promise.all(checking)
      await stop(server, [...clients, ...states.flatMap(({ sockets }) => [...sockets])])
    },
  }
}
