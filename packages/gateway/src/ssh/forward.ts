import type { Socket } from 'node:net'
import { type InstanceLease, SANDBOX_AGENT_PATH } from '@bramble/engine'
import type { ServerChannel, TcpipRequestInfo } from 'ssh2'
import { channelIo, joinChannel, KEEP } from './channel-io.ts'

export interface ForwardDeps {
  readonly socket: Socket
  lease(): Promise<InstanceLease>
}

/** A connection that the client wants from inside the sandbox (`ssh -L`, `ssh -D`; RFC 4254, 7.2). Never rejects. */
export const forwardTcp = async (
  accept: () => ServerChannel,
  reject: () => void,
  { destIP: host, destPort: port }: TcpipRequestInfo,
  deps: ForwardDeps,
): Promise<void> => {
  const timeout = AbortSignal.timeout(CONNECT_MS)
  try {
    using lease = await deps.lease()
    if (port < 1 || port > 65_535) return reject()
    const stream = await lease.connect({ host, port, signal: timeout })
    const channel = accept()
    if (channel) await joinChannel(channelIo(channel, deps.socket), stream)
    else stream.destroy()
  } catch {
    reject()
  }
}

/** The same to a Unix socket (`ssh -L port:/path`): by a program of the agent that joins it to its standard streams. */
export const forwardSocket = async (accept: () => ServerChannel, path: string, deps: ForwardDeps): Promise<void> => {
  const channel = accept()
  if (!channel) return
  const io = channelIo(channel, deps.socket)
  try {
    using lease = await deps.lease()
    const { user, env } = lease.defaults
    const process = lease.agent.exec({ argv: [SANDBOX_AGENT_PATH, 'relay', path], user, env, stdin: 'pipe' })
    const feed = async (): Promise<void> => {
      for await (const data of channel.iterator(KEEP)) await process.write(data as Buffer)
      process.end()
    }
    feed().catch(() => {})
    const end = (): void => process.kill(SIGKILL)
    io.signal.addEventListener('abort', end, { once: true })
    if (io.signal.aborted) end()
    for await (const event of process) if (event.type === 'stdout') await io.write(channel, event.data)
  } catch {
    // The socket is not there, or the client is gone: the channel ends.
  }
  channel.end()
}

const CONNECT_MS = 30_000
const SIGKILL = 9
