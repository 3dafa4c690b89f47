import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import type { Exposure, InstanceLease } from '@bramble/engine'
import type { Caller } from '@bramble/http'
import { BrambleError, type InstanceId, newId } from '@bramble/protocol'
import { onTestFinished } from 'vitest'
import type { PortProxyOptions } from '../context.ts'
import { POOL_LIMITS, type PoolLimits, upstreamPool } from '../pool.ts'
import { openPortProxy, type PortProxy } from '../proxy.ts'
import { openSignatures, type Signatures } from '../signatures.ts'

/**
 * The proxy on a server of node:http, with ports of this machine in the place of those in a sandbox: apps that are hostile
 * byte by byte are sockets of the test. What reaches into sandboxes is tried by the tests of a whole node.
 */
export interface TestProxy {
  readonly proxy: PortProxy
  readonly signatures: Signatures
  readonly port: number
  /** An API key of the tenant `mine`. */
  readonly key: string
  /** Of which instances leases were taken, in order. */
  readonly used: readonly string[]
  /** Leases that are held now. */
  readonly leases: () => number
  readonly connects: () => number
  /** How many connections were given to node:http. */
  readonly passed: () => number
  expose(port: number, changes?: Partial<Exposure>): Exposure
  fetch(path: string, init?: RequestInit): Promise<Response>
  /** A connection to the proxy, for requests byte by byte. */
  dial(): Promise<Socket>
}

const caller = (tenant: string, scopes: Caller['scopes'] = ['execute']): Caller => ({
  tenant,
  keyId: 'key_x',
  scopes,
  quota: {},
})

export interface TestProxyOptions {
  readonly limits?: Partial<PoolLimits>
  readonly timeouts?: Partial<Pick<PortProxyOptions, 'keepAliveMs' | 'headersTimeoutMs' | 'stallTimeoutMs'>>
  /** Connections begin with node:http. */
  readonly withoutFront?: boolean
  readonly routeTokens?: PortProxyOptions['routeTokens']
}

export const openTestProxy = async (options: TestProxyOptions = {}): Promise<TestProxy> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-ports-'))
  const signatures = await openSignatures(directory)
  const exposures: Exposure[] = []
  const key = `bramble_${randomBytes(32).toString('base64url')}`
  let leases = 0
  let connects = 0
  let passed = 0
  const used: string[] = []
  const use = async (ref: string): Promise<InstanceLease> => {
    used.push(ref)
    let held = true
    leases++
    const lease: Pick<InstanceLease, 'connect' | typeof Symbol.dispose> = {
      connect: (target) => {
        connects++
        return dial(target.port)
      },
      [Symbol.dispose]: () => {
        if (held) leases--
        held = false
      },
    }
    return lease as InstanceLease
  }
  const proxy = openPortProxy({
    routeTokens: options.routeTokens,
    instances: {
      findExposed: (ref, port) =>
        exposures.filter((one) => one.port === port && (one.instanceId === ref || one.name === ref)),
      use,
    },
    keys: {
      find: (text) => {
        if (text === key) return caller('mine')
        if (text === `${key}r`) return caller('mine', ['read'])
        return text === `${key}o` ? caller('other') : undefined
      },
    },
    signatures,
    domain: 'localhost',
    stallTimeoutMs: 60_000,
    keepAliveMs: 5_000,
    headersTimeoutMs: 10_000,
    maxHeaderBytes: 16_384,
    ...options.timeouts,
    isClosing: () => false,
    pool: upstreamPool({ ...POOL_LIMITS, ...options.limits }),
  })
  const server = createHttpServer({ shouldUpgradeCallback: proxy.takesUpgrade })
  const otherwise: RequestListener = (_request, response) => void response.writeHead(418).end('not a port')
  const taking = server.listeners('connection')
  if (!options.withoutFront) {
    server.removeAllListeners('connection')
    server.on('connection', (socket) =>
      proxy.connection(socket, () => {
        passed++
        for (const take of taking) take.call(server, socket)
      }),
    )
  }
  server.on('request', (request, response) => {
    if (!proxy.request(request, response)) otherwise(request, response)
  })
  server.on('checkContinue', (request, response) => void proxy.request(request, response, true))
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy())
    proxy.upgrade({ request, socket, head, requestId: 'req_x', path: '', query: new URLSearchParams() })
  })
  const port = await listen(server)
  onTestFinished(async () => {
    proxy.close()
    server.closeAllConnections()
    server.close()
    await rm(directory, { recursive: true, force: true })
  })
  return {
    proxy,
    signatures,
    port,
    key,
    used,
    leases: () => leases,
    connects: () => connects,
    passed: () => passed,
    expose: (exposed, changes = {}) => {
      const exposure: Exposure = {
        instanceId: newId('instance') as InstanceId,
        name: 'box',
        tenant: 'mine',
        port: exposed,
        visibility: 'public',
        createdAt: new Date().toISOString(),
        ...changes,
      }
      exposures.push(exposure)
      return exposure
    },
    fetch: (path, init) => fetch(`http://127.0.0.1:${port}${path}`, { redirect: 'manual', ...init }),
    dial: () => dial(port) as Promise<Socket>,
  }
}

const dial = async (port: number): Promise<Duplex> => {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  try {
    await once(socket, 'connect')
  } catch (cause) {
    throw new BrambleError('port_closed', { detail: `port ${port}`, cause })
  }
  return socket
}

const listen = async (server: Server): Promise<number> => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

/** A port that was free a moment ago. */
export const closedPort = async (): Promise<number> => {
  const server = createServer()
  const port = await listen(server)
  server.close()
  await once(server, 'close')
  return port
}

/** An HTTP server of node:http as an app. */
export const httpApp = async (listener: RequestListener): Promise<number> => {
  const server = createHttpServer(listener)
  const port = await listen(server)
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return port
}

/** An app that is a socket: it says what it likes. */
export const rawApp = async (onConnection: (socket: Socket) => void): Promise<number> => {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    onConnection(socket)
  })
  const port = await listen(server)
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return port
}
