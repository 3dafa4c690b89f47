import type { Socket } from 'node:net'
import type { InstanceLease, Instances } from '@bramble/engine'
import type { Connection, ServerChannel, SocketBindInfo } from 'ssh2'
import type { SshLogin } from './authenticate.ts'
import { forwardSocket, forwardTcp } from './forward.ts'
import type { SshLimits } from './server.ts'
import { serveSession } from './session.ts'

export interface ConnectionDeps {
  readonly instances: Pick<Instances, 'get' | 'use'>
  readonly socket: Socket
  readonly login: SshLogin
  readonly bounds: Pick<SshLimits, 'maxChannels' | 'maxHeldBytes'>
}

/** Sessions and forwarded connections of somebody who has logged in. While the connection is open its instance is in use. */
export const serveConnection = (connection: Connection, { instances, socket, login, bounds }: ConnectionDeps): void => {
  const lease = (): Promise<InstanceLease> => instances.use(login.instanceId, login.tenant)
  const whyGone = async (): Promise<string | undefined> => {
    const { status, reason } = await instances
      .get(login.instanceId, login.tenant)
      .catch(() => ({ status: 'deleted' as const, reason: undefined }))
    if (status === 'running' || status === 'paused') return undefined
    return `the instance is ${status}${reason === undefined ? '' : `: ${reason}`}`
  }
  const deps = { socket, lease, whyGone }
  let channels = 0
  /** Takes a place for a channel, where there is one; what it returns gives it back, once. */
  const place = (): (() => void) | undefined => {
    if (channels >= bounds.maxChannels) return undefined
    channels++
    let taken = true
    return () => {
      if (taken) channels--
      taken = false
    }
  }
  void holdInstance(connection, socket, lease)
  watchHeld(connection, socket, bounds.maxHeldBytes)

  connection.on('session', (accept, reject) => {
    const free = place()
    if (!free) return reject()
    const session = accept()
    if (session) serveSession(session, { ...deps, onEnd: free })
    else free()
  })
  connection.on('tcpip', (accept, reject, info) => {
    const free = place()
    if (!free) return reject()
    void forwardTcp(accept, reject, info, deps).finally(free)
  })
  // As OpenSSH's clients ask for it; the types of ssh2 name only what servers open.
  const onSocket = (accept: () => ServerChannel, reject: () => void, info: SocketBindInfo): void => {
    const free = place()
    if (free) void forwardSocket(accept, info.socketPath, deps).finally(free)
    else reject()
  }
  connection.on('openssh.streamlocal' as 'session', onSocket as never)
  // `tcpip-forward` and agent forwarding have no listener, so they are refused: nothing in a sandbox reaches the client.
}

/** The connection ends with the sandbox; its sessions have said why by then. */
const holdInstance = async (
  connection: Connection,
  socket: Socket,
  take: () => Promise<InstanceLease>,
): Promise<void> => {
  try {
    using lease = await take()
    const { promise: closed, resolve } = Promise.withResolvers<void>()
    if (socket.destroyed) return
    socket.once('close', () => resolve())
    await Promise.race([closed, lease.ended])
    await Promise.race([closed, later(FAREWELL_MS)])
  } catch {
    // Each session says it; a connection that asks for none must not stay.
    await later(FAREWELL_MS)
  }
  connection.end()
  await later(CLOSE_MS)
  socket.destroy()
}

const FAREWELL_MS = 500
/** How long a client may take to close its side. */
const CLOSE_MS = 5_000

const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms).unref())

/** ssh2 does not refuse what a client sends past its window: it would be kept in memory. */
const watchHeld = (connection: Connection, socket: Socket, maxBytes: number): void => {
  const { _channels: channels } = (connection as unknown as { _chanMgr: { _channels: Record<string, Held> } })._chanMgr
  socket.on('data', () => {
    let held = 0
    for (const id in channels) held += (channels[id]?._channel ?? channels[id])?.readableLength ?? 0
    if (held > maxBytes) socket.destroy()
  })
}

interface Held {
  readonly readableLength?: number
  readonly _channel?: Held
}
