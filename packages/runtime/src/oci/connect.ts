import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { createConnection, type Socket, type SocketConstructorOpts } from 'node:net'
import { BrambleError } from '@bramble/protocol'
import type { AgentStream } from '../agent/connect-agent.ts'

/** open(2) with O_PATH, which `node:fs` does not name: x86-64, arm64 and riscv agree on the value. */
const O_PATH = 0o10000000

/**
 * Connects to a Unix socket in a folder that a sandbox can write. The name is opened without following links and must
 * be a socket, so a link planted in its place cannot lead the host to another service; connecting by descriptor also
 * keeps long paths within sun_path (unix(7)).
 */
export const connectUnixSafely = (path: string): Promise<Socket> => connectTo(path, {})

/** All of them read into it: whoever takes a chunk is done with it before the next one is read. */
const SHARED = Buffer.allocUnsafeSlow(256 * 1024)

/**
 * The same for the stream of an agent, whose chunks are read into one buffer of the process: a buffer for each read would be
 * garbage outside the heap, for which V8 would collect all of the heap many times a second while a sandbox floods.
 */
export const connectAgentSocket = async (path: string): Promise<AgentStream> => {
  let early: Buffer[] = []
  let take: ((chunk: Buffer) => void) | undefined
  const callback = (bytes: number): boolean => {
    const chunk = SHARED.subarray(0, bytes)
    if (take) take(chunk)
    else early.push(Buffer.from(chunk))
    return true
  }
  const stream = await connectTo(path, { onread: { buffer: SHARED, callback } })
  return {
    stream,
    reads: (taker) => {
      take = taker
      for (const chunk of early) taker(chunk)
      early = []
    },
  }
}

const connectTo = async (path: string, options: Pick<SocketConstructorOpts, 'onread'>): Promise<Socket> => {
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW)
  try {
    if (!fstatSync(fd).isSocket())
      throw new BrambleError('sandbox_failed', { detail: 'the agent left something else where its socket was' })
    const socket = createConnection({ path: `/proc/self/fd/${fd}`, ...options })
    const { promise, resolve, reject } = Promise.withResolvers<Socket>()
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
    return await promise
  } finally {
    closeSync(fd)
  }
}
