import { BrambleError, ERROR_CODES, type ErrorCode } from '@bramble/protocol'
import { backoffMs, pause, type RetryPolicy } from '../backoff.ts'
import { cancelled, connectionFailure } from '../failure.ts'
import type { Socket, SocketEnd } from './socket.ts'

export interface LastingOptions {
  /** Opens a connection that goes on where the last one ended. */
  connect(signal: AbortSignal): Promise<Socket>
  /** Takes a message; what comes after it waits for the promise. Throwing ends it all. */
  onMessage(message: string | Uint8Array): Promise<void> | undefined
  /** What has to be said again on a new connection; not called for the first. */
  onReconnect?(): void
  /** Why nothing more is to come, so that the end of a connection is the end: without an error, or with one. */
  isOver(): { error?: unknown } | undefined
  /** Once: nothing comes any more. Without an error: it was closed, or is over. */
  onEnd(error?: unknown): void
  /** How long to try to get a lost connection back. 0: not at all. */
  readonly reconnectMs: number
  /** Nothing heard for so long: the connection is taken for lost. */
  readonly silenceMs: number
  /** Whether the node sends messages all the time: then their silence tells, also where pings cannot be heard. */
  readonly hasHeartbeat: boolean
  readonly retry: RetryPolicy
  readonly signal: AbortSignal | undefined
}

/** One conversation over as many connections as it takes. */
export interface LastingSocket {
  /** Waits where the connection is lost until there is another. Rejects once it is over. */
  send(data: string | Uint8Array): Promise<void> | undefined
  /** False while it is lost. */
  readonly connected: boolean
  /** Says goodbye; `onEnd` is called. Safe at any time, any number of times. */
  close(code?: number): void
}

/** Starts the conversation on `first`, which is open. */
export const lastingSocket = (first: Socket, options: LastingOptions): LastingSocket => {
  const ending = new AbortController()
  let socket: Socket | undefined = first
  let ended = false
  let back = Promise.withResolvers<void>()
  let busyUntil = 0
  let closeCode = 1000
  let reading = true

  const aborted = Promise.withResolvers<void>()
  const close = (code = 1000): void => {
    closeCode = code
    ending.abort()
  }
  const onAbort = (): void => ending.abort(cancelled(options.signal?.reason))
  if (options.signal?.aborted) onAbort()
  else options.signal?.addEventListener('abort', onAbort, { once: true })
  ending.signal.addEventListener('abort', () => {
    socket?.close(closeCode)
    aborted.resolve()
  })

  const look = (): void => {
    // While its reader is behind nothing is read, so nothing can be heard.
    if (!reading) busyUntil = Date.now()
    if (socket === undefined || !(options.hasHeartbeat || socket.hearsPings)) return
    if (Date.now() - Math.max(socket.heardAt, busyUntil) > options.silenceMs) socket.terminate()
  }
  const watchdog = setInterval(look, options.silenceMs / 4)
  // Of Node: a timer that keeps no process alive.
  ;(watchdog as { unref?: () => void }).unref?.()

  const readAll = async (from: Socket): Promise<void> => {
    for (let message = await from.next(); message !== undefined; message = await from.next()) {
      if (ending.signal.aborted) return
      const wait = options.onMessage(message)
      if (wait === undefined) continue
      reading = false
      await Promise.race([wait, aborted.promise])
      reading = true
      busyUntil = Date.now()
    }
  }

  const reconnect = async (cause: BrambleError): Promise<Socket> => {
    const deadline = Date.now() + options.reconnectMs
    for (let tries = 0; ; tries++) {
      const delayMs =
        tries === 0 && cause.retryAfterMs === undefined ? 0 : backoffMs(options.retry, tries, cause.retryAfterMs)
      if (Date.now() + delayMs >= deadline) throw cause
      await pause(delayMs, ending.signal)
      try {
        return await options.connect(ending.signal)
      } catch (error) {
        if (ending.signal.aborted || !(error instanceof BrambleError) || !error.retryable) throw error
        cause = error
      }
    }
  }

  const run = async (): Promise<unknown> => {
    for (;;) {
      if (socket === undefined) throw new TypeError('no socket')
      await readAll(socket)
      const { end } = socket
      socket = undefined
      if (ending.signal.aborted) return undefined
      const over = options.isOver()
      if (over !== undefined) return over.error
      const cause = reasonOf(end)
      if (!cause.retryable) throw cause
      back = Promise.withResolvers()
      back.promise.catch(() => undefined)
      socket = await reconnect(cause)
      options.onReconnect?.()
      back.resolve()
    }
  }

  const finish = (error?: unknown): void => {
    ended = true
    clearInterval(watchdog)
    options.signal?.removeEventListener('abort', onAbort)
    socket?.close(1000)
    socket = undefined
    const { reason } = ending.signal
    const why = ending.signal.aborted ? (reason instanceof BrambleError ? reason : undefined) : error
    back.reject(why ?? overError())
    options.onEnd(why)
  }
  back.promise.catch(() => undefined)
  run().then(finish, (error: unknown) =>
    finish(error instanceof BrambleError ? error : connectionFailure(error, 'the stream')),
  )

  const sendLater = async (data: string | Uint8Array): Promise<void> => {
    while (socket === undefined) await back.promise
    await socket.send(data)
  }
  return {
    close,
    get connected() {
      return socket !== undefined
    },
    send(data) {
      if (ended || ending.signal.aborted) return Promise.reject(overError())
      return socket === undefined ? sendLater(data) : socket.send(data)
    },
  }
}

const overError = (): BrambleError => new BrambleError('cancelled', { detail: 'the connection was closed' })

const isCode = (text: string): text is ErrorCode => (ERROR_CODES as readonly string[]).includes(text)

/** A node closes with a code of the error table as the reason; anything else is a lost connection. */
const reasonOf = (end: SocketEnd | undefined): BrambleError => {
  if (end?.error instanceof BrambleError) return end.error
  const [code = ''] = (end?.reason ?? '').split(/[:\s]/)
  if (isCode(code)) return new BrambleError(code, { detail: end?.reason ?? code })
  return new BrambleError('connection_failed', {
    detail: `the connection ended with code ${end?.code ?? 1006}${end?.reason ? ` (${end.reason})` : ''}`,
  })
}
