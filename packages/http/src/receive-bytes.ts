import type { IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { BrambleError } from '@bramble/protocol'

export interface ReceiveOptions {
  /** A client that sends nothing for so long is given up. */
  readonly stallTimeoutMs: number
  /** Told of every piece that went by. */
  readonly count: (bytes: number) => void
}

/**
 * The body of a request as it comes, of any size. It throws `request_timeout` where the client sends nothing for so long, and
 * `cancelled` where it goes: a body that ends early is never taken for a whole one.
 */
export async function* receiveBytes(
  request: IncomingMessage,
  { stallTimeoutMs, count }: ReceiveOptions,
): AsyncGenerator<Buffer> {
  const chunks: AsyncIterator<Buffer> = request.iterator({ destroyOnReturn: false })
  let stalled: NodeJS.Timeout | undefined
  let giveUp: ((error: Error) => void) | undefined
  const nextInTime = (): Promise<IteratorResult<Buffer>> =>
    new Promise((resolve, reject) => {
      giveUp = reject
      const detail = `nothing of the body came for ${stallTimeoutMs} ms`
      stalled = setTimeout(() => reject(new BrambleError('request_timeout', { detail })), stallTimeoutMs)
      chunks.next().then(resolve, reject)
    })
  // A request that was answered before all of its body came never ends, not even with its connection.
  const onClose = (): void => {
    if (!request.complete) giveUp?.(new Error('the connection was closed'))
  }
  const { socket } = request
  socket.once('close', onClose)
  try {
    for (;;) {
      // What is there already needs no timer.
      const next = request.readableLength > 0 ? await chunks.next() : await nextInTime()
      clearTimeout(stalled)
      if (next.done) return
      yield next.value
      count(next.value.length)
    }
  } catch (error) {
    if (error instanceof BrambleError) throw error
    throw new BrambleError('cancelled', { detail: 'the client went before all of the body was there', cause: error })
  } finally {
    clearTimeout(stalled)
    socket.off('close', onClose)
  }
}

/** Passes up to `maxBytes` on; more than that is `body_too_large`. */
export async function* boundedBytes(body: AsyncIterable<Buffer>, maxBytes: number): AsyncGenerator<Buffer> {
  let leftBytes = maxBytes
  for await (const piece of body) {
    leftBytes -= piece.length
    if (leftBytes < 0) throw new BrambleError('body_too_large', { detail: `the body is larger than ${maxBytes} bytes` })
    yield piece
  }
}

const DRAIN_BYTES = 64 * 1024 * 1024
const DRAIN_MS = 2_000

/**
 * Reads on for a moment what is left of a body that failed: a client that sends all of it before it reads would lose the
 * answer in a reset connection. What is more than that ends with the connection (`sendProblem` says so).
 */
export const drainBriefly = async (request: IncomingMessage): Promise<void> => {
  if (request.complete || request.destroyed) return
  const enough = new AbortController()
  let bytes = 0
  const count = (chunk: Buffer): void => {
    bytes += chunk.length
    if (bytes > DRAIN_BYTES) enough.abort()
  }
  const end = (): void => enough.abort()
  request.on('data', count).on('end', end).on('close', end)
  await delay(DRAIN_MS, undefined, { signal: enough.signal }).catch(() => {})
  request.off('data', count).off('end', end).off('close', end)
}
