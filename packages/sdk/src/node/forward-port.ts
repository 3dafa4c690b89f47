import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { Instance } from '../instances/instance.ts'
import { tunnelDuplex } from './tunnel-duplex.ts'

export interface Forwarding extends AsyncDisposable {
  /** Where it listens. */
  readonly host: string
  readonly port: number
}

export interface ForwardOptions {
  /** In the sandbox. */
  readonly port: number
  /** Of this host. Default: any that is free. */
  readonly localPort?: number | undefined
  /** Default 127.0.0.1. */
  readonly localHost?: string | undefined
  /** A connection that could not be made, or broke. The forwarding goes on. */
  readonly onError?: ((error: unknown) => void) | undefined
}

/** Listens on this host and carries each TCP connection to a port in the instance, until it is disposed of. */
export const forwardPort = async (instance: Pick<Instance, 'tunnel'>, options: ForwardOptions): Promise<Forwarding> => {
  const { port, localPort = 0, localHost = '127.0.0.1', onError } = options
  const sockets = new Set<Socket>()
  const carry = async (socket: Socket): Promise<void> => {
    const gone = new AbortController()
    socket.on('close', () => gone.abort()).on('error', () => socket.destroy())
    try {
      const far = await tunnelDuplex(instance, port, { signal: gone.signal })
      await Promise.all([pipeline(socket, far), pipeline(far, socket)])
    } catch (error) {
      if (!gone.signal.aborted) onError?.(error)
    } finally {
      socket.destroy()
    }
  }
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    void carry(socket)
  })
  server.listen(localPort, localHost)
  await once(server, 'listening')
  const address = server.address() as AddressInfo
  let closed: Promise<unknown> | undefined
  return {
    host: address.address,
    port: address.port,
    [Symbol.asyncDispose]: async () => {
      closed ??= once(server.close(), 'close')
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}
