import { BrambleError } from '@bramble/protocol'
import type { Socket } from '../socket/socket.ts'

/** A TCP connection to a port in the sandbox. Both directions go at the pace of whoever reads them. */
export interface Tunnel extends AsyncDisposable {
  readonly readable: ReadableStream<Uint8Array>
  /** Closing it ends this direction: what the other side still sends is there to read. */
  readonly writable: WritableStream<Uint8Array>
  /** Safe at any time, any number of times. */
  close(): void
}

/** What ends the client's direction, which a WebSocket has no way of its own for. */
const END = '{"type":"end"}'

export const tunnelOf = (socket: Socket): Tunnel => {
  const close = (): void => socket.close(1000)
  const readable = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (let message = await socket.next(); message !== undefined; message = await socket.next()) {
          if (typeof message === 'string') continue
          controller.enqueue(message)
          return
        }
        const { end } = socket
        if (end !== undefined && end.code !== 1000 && end.code !== 1005) controller.error(brokenBy(end))
        else controller.close()
      },
      cancel: close,
    },
    { highWaterMark: 0 },
  )
  const writable = new WritableStream<Uint8Array>({
    async write(chunk) {
      if (socket.end !== undefined) throw brokenBy(socket.end)
      await socket.send(chunk)
    },
    async close() {
      await socket.send(END)
    },
    abort: close,
  })
  return { readable, writable, close, [Symbol.asyncDispose]: async () => close() }
}

const brokenBy = ({ code, reason, error }: NonNullable<Socket['end']>): Error =>
  error ??
  new BrambleError('connection_failed', { detail: `the tunnel ended with code ${code}${reason && ` (${reason})`}` })
