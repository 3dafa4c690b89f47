import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { bufferPool } from './buffer-pool.ts'
import { escapeJson, MAX_ESCAPED_BYTES } from './escape-json.ts'
import type { OutputPiece } from './output-pieces.ts'
import { base64Bytes, writeBase64 } from './write-base64.ts'

/**
 * One response as server-sent events (WHATWG HTML, section 9.2): `event:` is the type, `id:` counts from 1, `data:` is
 * one line of JSON. A comment goes out when nothing else did for `heartbeatMs`, so that proxies keep the connection.
 *
 * Where a method returns a promise the client is slower than the writer: wait for it before writing more, and nothing grows.
 */
export interface EventStream {
  /** True once the client has gone or `end` was called; writing does nothing then. */
  readonly closed: boolean
  send(type: string, json: string): Promise<void> | undefined
  /** An output event, with `wrap` (ASCII) around its JSON. */
  sendOutput(type: 'stdout' | 'stderr', piece: OutputPiece, wrap: Wrap): Promise<void> | undefined
  end(): void
}

export interface EventStreamOptions {
  readonly heartbeatMs: number
  /** A client that takes nothing for so long is cut off. */
  readonly stallTimeoutMs: number
  /** Told of every output that went by. */
  readonly countOutput: (bytes: number) => void
}

export type Wrap = readonly [before: string, after: string]

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
  const buffers = bufferPool()

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
  const head = (type: string): string => `id: ${++sequence}\nevent: ${type}\ndata: `

  return {
    get closed() {
      return closed
    },
    send: (type, json) => (closed ? undefined : drained(raw.write(`${head(type)}${json}\n\n`))),
    sendOutput: (type, piece, [before, after]) => {
      if (closed) return undefined
      const start = `${head(type)}${before}{"type":"${type}",${piece.text ? '' : '"encoding":"base64",'}"data":"`
      const end = `"}${after}\n\n`
      const { bytes } = piece
      countOutput(bytes.length)
      const dataBytes = piece.text ? bytes.length * MAX_ESCAPED_BYTES : base64Bytes(bytes.length)
      const buffer = buffers.take(start.length + dataBytes + end.length)
      let at = buffer.write(start, 0, 'latin1')
      at = piece.text ? escapeJson(bytes, buffer, at) : writeBase64(bytes, buffer, at)
      at += buffer.write(end, at, 'latin1')
      return drained(raw.write(buffer.subarray(0, at), () => buffers.give(buffer)))
    },
    end: () => {
      if (closed) return
      close()
      raw.end()
      cutWhenStalled(raw, stallTimeoutMs)
    },
  }
}
