import type { IncomingMessage } from 'node:http'
import { BrambleError } from '@bramble/protocol'
import { WebSocket } from 'ws'
import { connectionFailure, failureOf } from '../failure.ts'
import { SDK_LIMITS } from '../limits.ts'
import { inbox } from '../socket/inbox.ts'
import type { Socket, SocketOpener, SocketRequest } from '../socket/socket.ts'

/** Sockets of `ws`: they can be paused, they send the key as a header, and a refusal comes with its reason. */
export const socketOpener = (): SocketOpener => ({ saysWhy: true, open })

const open = ({ url, apiKey, signal }: SocketRequest): Promise<Socket> =>
  new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason)
    const socket = new WebSocket(url, {
      headers: apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` },
      perMessageDeflate: false,
      maxPayload: SDK_LIMITS.maxMessageBytes,
    })
    const onAbort = (): void => {
      reject(signal.reason)
      socket.terminate()
    }
    signal.addEventListener('abort', onAbort, { once: true })
    const settled = (): void => signal.removeEventListener('abort', onAbort)
    const box = inbox({
      highWaterBytes: SDK_LIMITS.socketHighWaterBytes,
      pause: () => socket.pause(),
      resume: () => socket.resume(),
    })
    let heardAt = Date.now()
    socket.on('ping', () => {
      heardAt = Date.now()
    })
    socket.on('message', (data: Buffer, isBinary) => {
      heardAt = Date.now()
      box.push(isBinary ? data : data.toString())
    })
    socket.on('unexpected-response', (request, response) => {
      refusal(response)
        .then(reject, reject)
        .finally(() => {
          settled()
          request.destroy()
        })
    })
    let broken: Error | undefined
    socket.on('error', (error) => {
      settled()
      broken = error
      reject(connectionFailure(error, url.replace(/\?.*/, '')))
    })
    socket.on('close', (code, reason) => {
      settled()
      const tooLong =
        broken instanceof RangeError ? new BrambleError('bad_response', { detail: broken.message }) : undefined
      box.finish({ code, reason: reason.toString(), ...(tooLong && { error: tooLong }) })
    })
    socket.on('open', () => {
      settled()
      resolve({
        next: box.next,
        hearsPings: true,
        get heardAt() {
          return heardAt
        },
        get end() {
          return box.end
        },
        send: (data) => send(socket, data),
        // A paused socket would never read the peer's goodbye.
        close: (code) => {
          box.finish({ code: code ?? 1000, reason: '' })
          socket.resume()
          socket.close(code)
        },
        terminate: () => socket.terminate(),
      })
    })
  })

const send = (socket: WebSocket, data: string | Uint8Array): Promise<void> | undefined => {
  if (socket.readyState !== WebSocket.OPEN) return undefined
  if (socket.bufferedAmount <= SDK_LIMITS.socketHighWaterBytes) {
    socket.send(data)
    return undefined
  }
  return new Promise((resolve) => socket.send(data, () => resolve()))
}

/** The problem document of a node that would not open the socket. */
const refusal = async (response: IncomingMessage): Promise<BrambleError> => {
  const chunks: Uint8Array<ArrayBuffer>[] = []
  let bytes = 0
  for await (const chunk of response) {
    chunks.push(chunk)
    bytes += chunk.length
    if (bytes > SDK_LIMITS.maxProblemBytes) break
  }
  const headers = new Headers({ 'content-type': response.headers['content-type'] ?? '' })
  const retryAfter = response.headers['retry-after']
  if (retryAfter !== undefined) headers.set('retry-after', retryAfter)
  const status = response.statusCode ?? 502
  return failureOf(new Response(new Blob(chunks), { status: status < 400 ? 502 : status, headers }))
}
