import { LIMITS } from '@bramble/protocol'
import type { WebSocket } from 'ws'
import type { GatewayLimits } from '../limits.ts'

/**
 * One WebSocket (RFC 6455) with bounds: what waits to be sent, how long its client may take nothing, and how long it may be
 * silent. Where `send` returns a promise the client is slower than the writer: wait for it before sending more, and nothing
 * grows. Messages of the client are not read while something holds them.
 */
export interface LiveSocket {
  /** Aborts when the connection is over. */
  readonly signal: AbortSignal
  /** The code that the client closed with (RFC 6455, section 7.4); 1006 where it vanished. */
  readonly closeCode: number | undefined
  /** A text frame, or with `binary` a binary one. `done` is called when the bytes may be used again. */
  send(data: Uint8Array | string, options?: SendOptions): Promise<void> | undefined
  /** The client's messages, one after another. */
  receive(onMessage: (data: Buffer, binary: boolean) => void): void
  /** Stops reading what the client sends, until what it returns is called as often. */
  hold(): () => void
  /** Says why, and ends when the client has what was sent before, or `closeMs` later. Twice is safe. */
  close(code: number, reason: string): void
}

export interface SendOptions {
  readonly binary?: boolean
  readonly done?: () => void
}

export interface LiveSocketOptions {
  readonly limits: Pick<GatewayLimits, 'heartbeatMs' | 'liveBufferBytes' | 'liveStallMs'>
  /** Bytes of messages, both ways. */
  readonly count: (bytes: number) => void
  /** Sent before a client that takes nothing is cut off, for when it does. */
  readonly stallMessage?: string | undefined
}

export const CLOSE = {
  normal: 1000,
  restart: 1012,
  internal: 1011,
  /** The status of the error that ended it. */
  ofStatus: (status: number): number => 4000 + status,
} as const

/** How long a client may take for its side of the closing. */
const CLOSE_MS = 5_000

export const liveSocket = (ws: WebSocket, options: LiveSocketOptions): LiveSocket => {
  const { limits, count } = options
  const ended = new AbortController()
  let closeCode: number | undefined
  // Until somebody receives.
  let holds = 1
  let heard = true
  let draining: PromiseWithResolvers<void> | undefined
  let stall: NodeJS.Timeout | undefined
  let closing: NodeJS.Timeout | undefined
  ws.pause()

  const release = (): void => {
    clearTimeout(stall)
    stall = undefined
    draining?.resolve()
    draining = undefined
  }
  const close = (code: number, reason: string): void => {
    if (closing) return
    ws.close(code, reason)
    closing = setTimeout(() => ws.terminate(), CLOSE_MS)
    // Its closing frame is behind what is held.
    ws.resume()
    release()
  }
  const onStall = (): void => {
    if (options.stallMessage !== undefined) ws.send(options.stallMessage)
    close(CLOSE.ofStatus(408), 'slow_consumer')
  }
  const heartbeat = setInterval(() => {
    // Who is not listened to cannot be heard.
    if (!heard && holds === 0) return ws.terminate()
    heard = false
    ws.ping()
  }, limits.heartbeatMs)
  heartbeat.unref()

  ws.on('pong', () => {
    heard = true
  })
  ws.on('message', () => {
    heard = true
  })
  // Said before `close`: a frame that is none, a message past the limit.
  ws.on('error', () => {})
  ws.on('close', (code) => {
    closeCode = code
    clearInterval(heartbeat)
    clearTimeout(closing)
    release()
    ended.abort()
  })

  const sent = (done: (() => void) | undefined) => (): void => {
    done?.()
    if (!draining) return
    if (ws.bufferedAmount <= limits.liveBufferBytes / 2) release()
    // It takes something, if slowly.
    else stall?.refresh()
  }

  return {
    signal: ended.signal,
    get closeCode() {
      return closeCode
    },
    send: (data, { binary = false, done } = {}) => {
      if (ws.readyState !== ws.OPEN || closing) {
        done?.()
        return undefined
      }
      count(data.length)
      ws.send(data, { binary }, sent(done))
      if (ws.bufferedAmount <= limits.liveBufferBytes) return undefined
      stall ??= setTimeout(onStall, limits.liveStallMs)
      draining ??= Promise.withResolvers()
      return draining.promise
    },
    receive: (onMessage) => {
      ws.on('message', (data, binary) => {
        const bytes = data as Buffer
        count(bytes.length)
        if (!closing) onMessage(bytes, binary)
      })
      if (--holds === 0) ws.resume()
    },
    hold: () => {
      if (holds++ === 0 && !closing) ws.pause()
      let held = true
      return () => {
        if (!held) return
        held = false
        heard = true
        if (--holds === 0) ws.resume()
      }
    },
    close,
  }
}

/** What `ws` is to be given: a message of a client is held in memory, and is never worth compressing. */
export const SOCKET_OPTIONS = {
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: LIMITS.maxStreamMessageBytes.value,
} as const
