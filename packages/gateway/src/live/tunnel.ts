import type { Duplex } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
import { closeCodeOf, type LiveCall, type LiveConnection, untilClosed } from './live-call.ts'
import { CLOSE, type LiveSocket } from './live-socket.ts'

/**
 * A TCP connection to a port in the sandbox: binary frames both ways. The client ends its own direction with the text frame
 * `{"type":"end"}` and still gets what comes; a closing frame ends both, after what was sent before it. When the sandbox ends its
 * direction, the connection is closed (1000) after the last byte; when it breaks, with 4000 and the status of the error.
 *
 * The connection is there before the client is answered: `port_closed` is an HTTP answer.
 */
export const prepareTunnel = async ({ lease, signal }: LiveCall, port: number): Promise<LiveConnection> => {
  const tcp = await lease.connect({ port, signal })
  // Told by `close`, below.
  tcp.on('error', () => {})
  return { run: (socket) => join(tcp, socket), abandon: () => tcp.destroy() }
}

/** How long the other side may take for what is left, and to end its direction. */
const FLUSH_MS = 5_000

const END = '{"type":"end"}'

const join = async (tcp: Duplex, socket: LiveSocket): Promise<void> => {
  let failure: unknown
  tcp.on('error', (error) => {
    failure = error
  })
  tcp.on('data', (chunk: Buffer) => {
    const wait = socket.send(chunk, { binary: true })
    if (!wait) return
    tcp.pause()
    void wait.then(() => tcp.resume())
  })
  tcp.on('end', () => socket.close(CLOSE.normal, 'the other side ended the connection'))
  let release: (() => void) | undefined
  const goOn = (): void => {
    release?.()
    release = undefined
  }
  tcp.on('drain', goOn)
  tcp.on('close', () => {
    goOn()
    const error = failure ?? new BrambleError('port_closed', { detail: 'the connection broke' })
    socket.close(closeCodeOf(error), error instanceof BrambleError ? error.code : 'internal')
  })
  socket.receive((data, binary) => {
    if (!binary) {
      if (isEnd(data)) tcp.end()
      else socket.close(CLOSE.ofStatus(400), 'invalid_request')
      return
    }
    if (tcp.writableEnded || tcp.destroyed || tcp.write(data)) return
    release ??= socket.hold()
  })
  await untilClosed(socket)
  // What the client sent before it closed still arrives; what comes back has nowhere to go.
  tcp.resume()
  if (tcp.destroyed) return
  // Destroyed at once, it would lose what the sandbox has not taken yet.
  const timer = setTimeout(() => tcp.destroy(), FLUSH_MS)
  tcp.once('close', () => clearTimeout(timer))
  tcp.end()
}

const isEnd = (data: Buffer): boolean => {
  const text = data.toString()
  if (text === END) return true
  try {
    return (JSON.parse(text) as { type?: unknown } | null)?.type === 'end'
  } catch {
    return false
  }
}
