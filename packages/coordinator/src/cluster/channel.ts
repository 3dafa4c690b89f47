import { frameCodec } from '@bramble/identity/node'
import type { WebSocket } from 'ws'

/** Messages over a WebSocket whose both ends have shown who they are: in order, with a code on each frame, many in one. */
export interface Channel<Out> {
  /** Goes with all that is sent in this turn. Nothing happens when the channel is closed. */
  send(message: Out): void
  close(): void
}

export interface ChannelOptions<In> {
  readonly ws: WebSocket
  readonly key: Uint8Array
  readonly side: 'asker' | 'writer'
  readonly message: (message: In) => void
  /** Called once. */
  readonly closed: () => void
}

const MAX_FRAME_CHARS = 1024 * 1024
/** What the other end does not take for so long that it is as good as gone. */
const MAX_BUFFERED_BYTES = 256 * 1024 * 1024
const PING_MS = 2_000
/** Without a word for so long the other end is taken for dead. */
export const SILENCE_MS = 6_000
/** One frame, of several messages, one of which may be a page of jobs with their results. */
export const MAX_PAYLOAD_BYTES = 256 * 1024 * 1024

export const openChannel = <In, Out>(options: ChannelOptions<In>): Channel<Out> => {
  const { ws, key, side } = options
  const codec = frameCodec({ key, side: side === 'asker' ? 'worker' : 'coordinator' })
  let outgoing: string[] = []
  let chars = 0
  let flushing = false
  let heardMs = performance.now()

  const write = (): void => {
    if (outgoing.length === 0 || ws.readyState !== ws.OPEN) return
    const text = codec.seal(`[${outgoing.join(',')}]`)
    outgoing = []
    chars = 0
    ws.send(text)
    if (ws.bufferedAmount > MAX_BUFFERED_BYTES) ws.terminate()
  }
  const flush = (): void => {
    flushing = false
    write()
  }
  const pinging = setInterval(() => {
    if (performance.now() - heardMs > SILENCE_MS) ws.terminate()
    else if (ws.readyState === ws.OPEN) ws.ping()
  }, PING_MS)

  ws.on('pong', () => {
    heardMs = performance.now()
  })
  ws.on('ping', () => {
    heardMs = performance.now()
  })
  ws.on('message', (data) => {
    heardMs = performance.now()
    try {
      const messages = JSON.parse(codec.open(String(data))) as In[]
      for (const message of messages) options.message(message)
    } catch {
      // Somebody on the way changed it, or the other end is another version: nothing that follows can be trusted.
      ws.terminate()
    }
  })
  ws.on('error', () => {})
  ws.once('close', () => {
    clearInterval(pinging)
    options.closed()
  })

  return {
    send(message) {
      const text = JSON.stringify(message)
      outgoing.push(text)
      chars += text.length
      if (chars >= MAX_FRAME_CHARS) write()
      else if (!flushing) {
        flushing = true
        setImmediate(flush)
      }
    },
    close() {
      write()
      ws.close(1000)
      // The other end may be gone.
      setTimeout(() => ws.terminate(), PING_MS).unref()
    },
  }
}
