import { BrambleError } from '@bramble/protocol'
import { SDK_LIMITS } from '../limits.ts'
import { inbox } from './inbox.ts'
import type { Socket, SocketOpener, SocketRequest } from './socket.ts'

/** The `WebSocket` of browsers (WHATWG WebSockets), or one like it. */
export type WebSocketClass = new (url: string) => WebSocket

/** How often a full send buffer is looked at: the platform has no event for it. */
const SEND_POLL_MS = 5

/**
 * Sockets of a class like the platform's. They send no headers, so the key stands in the URL as `?token=`; and they cannot be
 * paused, so a reader that stays behind by more than `maxBufferedBytes` loses the connection (`slow_consumer`).
 */
export const openerOf = (Class: WebSocketClass): SocketOpener => ({
  saysWhy: false,
  open: (request) => open(Class, request),
})

/** Those of the platform. */
export const socketOpener = (): SocketOpener => openerOf(globalThis.WebSocket)

const open = (Class: WebSocketClass, { url, apiKey, signal }: SocketRequest): Promise<Socket> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const token = apiKey === undefined ? '' : `${url.includes('?') ? '&' : '?'}token=${encodeURIComponent(apiKey)}`
    const socket = new Class(`${url}${token}`)
    socket.binaryType = 'arraybuffer'
    const onAbort = (): void => {
      socket.close()
      reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    const box = inbox({ highWaterBytes: Number.POSITIVE_INFINITY })
    let heardAt = Date.now()
    socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (box.end !== undefined) return
      heardAt = Date.now()
      box.push(typeof data === 'string' ? data : new Uint8Array(data))
      if (box.waitingBytes <= SDK_LIMITS.maxBufferedBytes) return
      const detail = `${SDK_LIMITS.maxBufferedBytes} bytes wait to be read`
      box.finish({ code: 1006, reason: '', error: new BrambleError('slow_consumer', { detail }) })
      socket.close()
    }
    socket.onclose = ({ code, reason }) => {
      signal.removeEventListener('abort', onAbort)
      box.finish({ code, reason })
      reject(new BrambleError('connection_failed', { detail: `${url.replace(/\?.*/, '')}: the socket did not open` }))
    }
    socket.onopen = () => {
      signal.removeEventListener('abort', onAbort)
      resolve({
        next: box.next,
        hearsPings: false,
        get heardAt() {
          return heardAt
        },
        get end() {
          return box.end
        },
        send: (data) => {
          if (socket.readyState !== socket.OPEN) return undefined
          socket.send(data as string | Uint8Array<ArrayBuffer>)
          return socket.bufferedAmount > SDK_LIMITS.socketHighWaterBytes ? sent(socket) : undefined
        },
        close: (code) => {
          box.finish({ code: code ?? 1000, reason: '' })
          socket.close(code)
        },
        terminate: () => {
          box.finish({ code: 1006, reason: '' })
          socket.close()
        },
      })
    }
  })

const sent = (socket: WebSocket): Promise<void> =>
  new Promise((resolve) => {
    const timer = setInterval(() => {
      if (socket.readyState === socket.OPEN && socket.bufferedAmount > SDK_LIMITS.socketHighWaterBytes / 2) return
      clearInterval(timer)
      resolve()
    }, SEND_POLL_MS)
  })
