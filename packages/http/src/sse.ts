import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'

/**
 * One response as server-sent events (WHATWG HTML, section 9.2): `event:` is the type, `id:` counts from 1 unless it is given, `data:`
 * is one line of JSON. A comment goes out when nothing else did for `heartbeatMs`, so that proxies keep the connection.
 *
 * Where a method returns a promise the client is slower than the writer: wait for it before writing more, and nothing grows.
 */
export interface EventStream {
  /** True once the client has gone or `end` was called; writing does nothing then. */
  readonly closed: boolean
  send(type: string, json: string, id?: number): Promise<void> | undefined
  /** What stands before the JSON of the next event, for whoever writes a whole event as bytes. */
  head(type: string): string
  /** Bytes of whole events; they may be used again from `done` on. */
  write(bytes: Uint8Array, done: () => void): Promise<void> | undefined
  end(): void
}

export interface EventStreamOptions {
  readonly heartbeatMs: number
  /** A client that takes nothing for so long is cut off. */
  readonly stallTimeoutMs: number
  /** Told of all that `write` carries. */
  readonly countOutput?: (bytes: number) => void
}

/** Takes the reply over from Fastify and opens the stream with status 200. */
export const openEventStream = (reply: FastifyReply, options: EventStreamOptions): EventStream => {
  reply.hijack()
  const { raw } = reply
  raw.writeHead(200, {
    ...reply.getHeaders(),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store, no-transform',
    'x-accel-buffering': 'no',
  } as Record<string, string>)
  raw.flushHeaders()
  return eventStream(raw, options)
}

/** Cuts the connection when what was written last is not taken in time. */
export const cutWhenStalled = (raw: ServerResponse, stallTimeoutMs: number): void => {
  const timer = setTimeout(() => raw.destroy(), stallTimeoutMs).unref()
  raw.on('finish', () => clearTimeout(timer)).on('close', () => clearTimeout(timer))
}

const eventStream = (
  raw: ServerResponse,
  { heartbeatMs, stallTimeoutMs, countOutput }: EventStreamOptions,
): EventStream => {
  let sequence = 0
  let closed = raw.destroyed
  let quiet = false
  let draining: PromiseWithResolvers<void> | undefined

  let stall: NodeJS.Timeout | undefined
  const release = (): void => {
    clearTimeout(stall)
    stall = undefined
    draining?.resolve()
    draining = undefined
  }
  const heartbeat = setInterval(() => {
    if (quiet && !raw.writableNeedDrain) raw.write(': heartbeat\n\n')
    quiet = true
  }, heartbeatMs)
  heartbeat.unref()
  const close = (): void => {
    closed = true
    clearInterval(heartbeat)
    release()
  }
  raw.on('drain', release).on('close', close).on('error', close)

  const drained = (room: boolean): Promise<void> | undefined => {
    quiet = false
    if (room) return undefined
    stall ??= setTimeout(() => raw.destroy(), stallTimeoutMs).unref()
    draining ??= Promise.withResolvers()
    return draining.promise
  }
  const head = (type: string, id: number = ++sequence): string => `id: ${id}\nevent: ${type}\ndata: `

  return {
    get closed() {
      return closed
    },
    send: (type, json, id) => (closed ? undefined : drained(raw.write(`${head(type, id)}${json}\n\n`))),
    head,
    write: (bytes, done) => {
      if (closed) {
        done()
        return undefined
      }
      countOutput?.(bytes.length)
      return drained(raw.write(bytes, done))
    },
    end: () => {
      if (closed) return
      close()
      raw.end()
      cutWhenStalled(raw, stallTimeoutMs)
    },
  }
}
