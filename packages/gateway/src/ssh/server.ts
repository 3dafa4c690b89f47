import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import type { Instances } from '@bramble/engine'
import { type TokenBucket, tokenBucket } from '@bramble/http'
import type { FastifyBaseLogger } from 'fastify'
import ssh2, { type AuthContext, type Connection, type ServerConfig } from 'ssh2'
import { authenticate, type SshAuthentication, type SshLogin } from './authenticate.ts'
import { serveConnection } from './connection.ts'
import { hostKey } from './host-key.ts'

/** Instances by SSH: `ssh -p 2222 <instance>@host`. */
export interface SshServer extends AsyncDisposable {
  readonly port: number
  /** Stops listening, and ends every connection. Safe twice. */
  close(): Promise<void>
}

export interface SshServerOptions extends SshAuthentication {
  readonly instances: Pick<Instances, 'get' | 'use'>
  /** Where the host key is kept. */
  readonly dataDirectory: string
  readonly host: string
  /** 0 takes a free one. */
  readonly port: number
  readonly logger?: FastifyBaseLogger | undefined
  readonly limits?: Partial<SshLimits>
}

export interface SshLimits {
  readonly maxConnections: number
  /** Of those, ones that have not logged in yet: past it, the oldest of the address that has the most gives way. */
  readonly maxUnauthenticated: number
  readonly maxConnectionsPerTenant: number
  /** Channels of one connection at once. */
  readonly maxChannels: number
  /** Attempts to log in on one connection: a client tries every key it has. */
  readonly maxAttempts: number
  /** From the connection to the login. */
  readonly loginGraceMs: number
  /** Connections of one address that end without a login, before it has to wait. */
  readonly failuresPerMinute: number
  /** What one connection may have sent that no command has taken. */
  readonly maxHeldBytes: number
}

export const SSH_LIMITS: SshLimits = {
  maxConnections: 512,
  maxUnauthenticated: 64,
  maxConnectionsPerTenant: 128,
  maxChannels: 64,
  maxAttempts: 16,
  loginGraceMs: 30_000,
  failuresPerMinute: 60,
  maxHeldBytes: 32 * 1024 * 1024,
}

interface Context extends SshServerOptions {
  readonly bounds: SshLimits
  readonly sockets: Set<Socket>
  readonly unauthenticated: Set<Socket>
  readonly perTenant: Map<string, number>
  readonly failures: Map<string, { readonly bucket: TokenBucket; blockedUntil: number }>
}

/** Opens the server. Throws what listen(2) says. */
export const openSshServer = async (options: SshServerOptions): Promise<SshServer> => {
  const bounds = { ...SSH_LIMITS, ...options.limits }
  const context: Context = {
    ...options,
    bounds,
    sockets: new Set(),
    unauthenticated: new Set(),
    perTenant: new Map(),
    failures: new Map(),
  }
  // One server of ssh2 for each connection: it does not say which of its connections is on which socket.
  const config = { hostKeys: [await hostKey(options.dataDirectory)], ident: 'bramble' }
  const listener = createServer({ noDelay: true, keepAlive: true }, (socket) => accept(context, config, socket))
  listener.maxConnections = bounds.maxConnections
  listener.listen(options.port, options.host)
  await once(listener, 'listening')
  const sweep = setInterval(() => context.failures.clear(), FORGET_FAILURES_MS).unref()

  let closed: Promise<void> | undefined
  const closeOnce = async (): Promise<void> => {
    clearInterval(sweep)
    const ended = once(listener, 'close')
    listener.close()
    for (const socket of context.sockets) socket.destroy()
    await ended
  }
  const close = (): Promise<void> => {
    closed ??= closeOnce()
    return closed
  }
  return { port: (listener.address() as AddressInfo).port, close, [Symbol.asyncDispose]: close }
}

const FORGET_FAILURES_MS = 600_000

const accept = (context: Context, config: ServerConfig, socket: Socket): void => {
  const { bounds, sockets, unauthenticated } = context
  const address = socket.remoteAddress ?? ''
  socket.on('error', () => socket.destroy())
  // Each of its channels listens.
  socket.setMaxListeners(0)
  // Before anything is computed for it.
  if (isBlocked(context, address)) {
    socket.destroy()
    return
  }
  if (unauthenticated.size >= bounds.maxUnauthenticated) makeWay(context)
  sockets.add(socket)
  unauthenticated.add(socket)
  const grace = setTimeout(() => socket.destroy(), bounds.loginGraceMs)
  socket.once('close', () => {
    clearTimeout(grace)
    sockets.delete(socket)
    if (unauthenticated.delete(socket)) countFailure(context, address)
  })
  const server = new ssh2.Server(config, (connection) => {
    let login: SshLogin | undefined
    let attempts = 0
    connection.on('error', (error) => context.logger?.debug({ err: error }, 'an SSH connection broke'))
    connection.on('authentication', (attempt) => {
      if (++attempts > bounds.maxAttempts) {
        socket.destroy()
        return
      }
      void decide(context, attempt).then((found) => {
        if (socket.destroyed) return
        if (found === undefined) return attempt.reject(METHODS)
        if (found !== 'probe') login = found
        attempt.accept()
      })
    })
    connection.on('ready', () => {
      clearTimeout(grace)
      unauthenticated.delete(socket)
      if (login) serve(context, connection, socket, login)
      else socket.destroy()
    })
  })
  server.on('error', () => socket.destroy())
  server.injectSocket(socket)
}

/** Nobody can keep others from logging in by connections that never do: those of whoever has the most of them end first. */
const makeWay = (context: Context): void => {
  const { unauthenticated } = context
  const byAddress = new Map<string | undefined, Socket[]>()
  for (const socket of unauthenticated) {
    const { remoteAddress } = socket
    const held = byAddress.get(remoteAddress)
    if (held) held.push(socket)
    else byAddress.set(remoteAddress, [socket])
  }
  let most: Socket[] = []
  for (const held of byAddress.values()) if (held.length > most.length) most = held
  const [oldest] = most
  if (!oldest) return
  // Before it says that it is closed: others may come until then.
  unauthenticated.delete(oldest)
  countFailure(context, oldest.remoteAddress ?? '')
  oldest.destroy()
}

const METHODS: ssh2.AuthenticationType[] = ['publickey', 'password']

const decide = async (context: Context, attempt: AuthContext): Promise<SshLogin | 'probe' | undefined> => {
  try {
    return await authenticate(context, attempt)
  } catch (error) {
    context.logger?.error({ err: error }, 'an SSH login could not be looked at')
    return undefined
  }
}

const isBlocked = ({ failures }: Context, address: string): boolean =>
  (failures.get(address)?.blockedUntil ?? 0) > performance.now()

const countFailure = ({ failures, bounds }: Context, address: string): void => {
  const now = performance.now()
  const entry = failures.get(address) ?? {
    bucket: tokenBucket(bounds.failuresPerMinute, () => performance.now() / 60),
    blockedUntil: 0,
  }
  const { waitMs } = entry.bucket.take()
  // The bucket counts in minutes.
  entry.blockedUntil = now + waitMs * 60
  failures.set(address, entry)
}

const serve = (context: Context, connection: Connection, socket: Socket, login: SshLogin): void => {
  const { perTenant, bounds, instances } = context
  const { tenant } = login
  const count = (perTenant.get(tenant) ?? 0) + 1
  if (count > bounds.maxConnectionsPerTenant) {
    connection.end()
    return
  }
  perTenant.set(tenant, count)
  socket.once('close', () => {
    const left = (perTenant.get(tenant) ?? 1) - 1
    if (left > 0) perTenant.set(tenant, left)
    else perTenant.delete(tenant)
  })
  serveConnection(connection, { instances, socket, login, bounds })
}
