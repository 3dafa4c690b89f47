import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { BrambleError } from '@bramble/protocol'

/** open(2) with O_PATH, which `node:fs` does not name: x86-64, arm64 and riscv agree on the value. */
const O_PATH = 0o10000000

/**
 * Connects to a Unix socket in a folder that a sandbox can write. The name is opened without following links and must
 * be a socket, so a link planted in its place cannot lead the host to another service; connecting by descriptor also
 * keeps long paths within sun_path (unix(7)).
 */
export const connectUnixSafely = async (path: string): Promise<Socket> => {
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW)
  try {
    if (!fstatSync(fd).isSocket())
      throw new BrambleError('sandbox_failed', { detail: 'the agent left something else where its socket was' })
    const socket = createConnection({ path: `/proc/self/fd/${fd}` })
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
