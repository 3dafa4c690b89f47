import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import type { Answer } from './idempotency.ts'

export interface BytesOptions {
  readonly status: number
  readonly headers: OutgoingHttpHeaders
  /** How many bytes the body has, where that is known: no more are sent, and fewer are an error. */
  readonly length?: number | undefined
  readonly body?: AsyncIterable<Uint8Array> | undefined
  /** A client that takes nothing for so long is cut off. */
  readonly stallTimeoutMs: number
  /** Told of every piece that went by. */
  readonly count: (bytes: number) => void
}

/**
 * Takes the reply over and sends a body as it comes, at the client's pace. What fails before the first bytes are there is
 * thrown while an answer can still say so; later it throws too, and the caller cuts the connection.
 */
export const sendBytes = async (reply: FastifyReply, options: BytesOptions): Promise<Answer> => {
  const { status, headers, body, stallTimeoutMs, count } = options
  const chunks = body?.[Symbol.asyncIterator]()
  try {
    let next = await chunks?.next()
    const length = options.length ?? (next?.done ? 0 : undefined)
    reply.hijack()
    const { raw } = reply
    raw.writeHead(status, {
      ...reply.getHeaders(),
      ...headers,
      ...(length !== undefined && { 'content-length': length }),
    } as OutgoingHttpHeaders)
    let left = length ?? Number.POSITIVE_INFINITY
    while (chunks && next && !next.done && left > 0 && !raw.destroyed) {
      const chunk = next.value.length > left ? next.value.subarray(0, left) : next.value
      left -= chunk.length
      count(chunk.length)
      if (!raw.write(chunk)) await drained(raw, stallTimeoutMs)
      next = await chunks.next()
    }
    if (raw.destroyed) return { status }
    if (chunks && length !== undefined && left > 0) throw new Error(`the body ended ${left} bytes early`)
    raw.end()
    return { status }
  } finally {
    await chunks?.return?.()
  }
}

/** Resolves when there is room again, and when there never will be. */
const drained = (raw: ServerResponse, stallTimeoutMs: number): Promise<void> =>
  new Promise((resolve) => {
    const stall = setTimeout(() => raw.destroy(), stallTimeoutMs)
    const settle = (): void => {
      clearTimeout(stall)
      raw.off('drain', settle).off('close', settle)
      resolve()
    }
    raw.on('drain', settle).on('close', settle)
    if (raw.destroyed) settle()
  })
