import type { IncomingMessage, ServerResponse } from 'node:http'
import { cutWhenStalled } from '@bramble/http'
import type { RequestBody } from './request-head.ts'
import { responseHeaders, type ShownAs } from './response-head.ts'
import type { ResponseHead } from './response-reader.ts'
import { NO_TRAILER, trailerFields } from './trailers.ts'
import type { Upstream, UpstreamUser } from './upstream.ts'

export interface ExchangeOptions {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly upstream: Upstream
  /** Latin-1. */
  readonly head: string
  readonly body: RequestBody
  readonly shown: ShownAs
  /** A client that takes nothing for so long is cut off. */
  readonly stallTimeoutMs: number
}

/**
 * How it ended. `kept`: the connection serves another request. `lost`: it broke; where nothing of a response had come
 * (`unanswered`), the client can still be told, or the request sent again.
 */
export type ExchangeEnd =
  | { readonly type: 'kept' }
  | { readonly type: 'done' }
  | { readonly type: 'lost'; readonly unanswered: boolean; readonly error: Error | undefined }

/** Carries one request to an app and its response back, at the pace of the slower side. */
export const exchange = (options: ExchangeOptions): Promise<ExchangeEnd> =>
  new Promise((resolve) => new Exchange(options, resolve).start())

/** A body that came with its head is held until it is whole, or nothing more came with it. */
const MAX_HELD_BYTES = 16 * 1024

class Exchange implements UpstreamUser {
  readonly #options: ExchangeOptions
  readonly #resolve: (end: ExchangeEnd) => void
  readonly #onGone = (): void => this.#gone()
  #onRoom: (() => void) | undefined
  #onData: ((chunk: Buffer) => void) | undefined
  #onEnd: (() => void) | undefined
  #keepsAlive = false
  #answered = false
  #sentAll: boolean
  #ended = false
  #flushed = false
  #held: Buffer | undefined
  #stall: NodeJS.Timeout | undefined

  constructor(options: ExchangeOptions, resolve: (end: ExchangeEnd) => void) {
    this.#options = options
    this.#resolve = resolve
    this.#sentAll = options.body.kind === 'none'
  }

  start(): void {
    const { request, response, upstream, head, body } = this.#options
    upstream.begin(this, request.method ?? 'GET', false)
    response.on('close', this.#onGone)
    if (response.destroyed) {
      this.#gone()
      return
    }
    const { stream } = upstream
    if (body.kind !== 'none') stream.cork()
    stream.write(head, 'latin1')
    if (body.kind === 'none') return
    this.#onData = (chunk) => this.#send(chunk)
    this.#onEnd = () => this.#sent()
    request.on('data', this.#onData)
    request.on('end', this.#onEnd)
    // What came with the head goes out with it.
    process.nextTick(() => stream.uncork())
  }

  head(head: ResponseHead): void {
    const { response, shown, request } = this.#options
    if (head.status < 200) {
      this.#interim(head)
      return
    }
    this.#answered = true
    this.#keepsAlive = head.keepsAlive
    const headers = responseHeaders(head, shown)
    // What the app does not wait for need not come whole: the client is told that it can stop.
    if (!this.#sentAll && !request.complete) headers.push('connection', 'close')
    response.sendDate = false
    response.writeHead(head.status, head.reason, headers)
  }

  body(data: Buffer): void {
    if (this.#held === undefined && !this.#flushed && data.length <= MAX_HELD_BYTES) this.#held = data
    else this.#write(data)
  }

  /** A body may be long in coming (server-sent events): its head does not wait for it, nor does what came of it. */
  fed(): void {
    if (!this.#answered) return
    if (this.#held !== undefined) this.#write(undefined)
    else if (!this.#flushed) this.#options.response.flushHeaders()
    this.#flushed = true
  }

  #write(data: Buffer | undefined): void {
    const { response, upstream, stallTimeoutMs } = this.#options
    const held = this.#held
    this.#held = undefined
    this.#flushed = true
    let room = true
    if (held !== undefined) room = response.write(held)
    if (data !== undefined) room = response.write(data)
    if (room || this.#ended) return
    upstream.stream.pause()
    if (this.#stall === undefined) {
      this.#onRoom ??= () => this.#room()
      response.on('drain', this.#onRoom)
      this.#stall = setTimeout(() => response.destroy(), stallTimeoutMs).unref()
    }
  }

  end(trailers: readonly string[], rest: Buffer | undefined): void {
    const { response, upstream, stallTimeoutMs } = this.#options
    if (trailers.length > 0 && response.chunkedEncoding) addTrailers(response, trailers)
    // As text it goes out with the head, in one write.
    if (this.#held !== undefined && trailers.length === 0) response.end(this.#held.toString('latin1'), 'latin1')
    else response.end(this.#held)
    if (response.writableNeedDrain) cutWhenStalled(response, stallTimeoutMs)
    const kept = this.#keepsAlive && this.#sentAll && rest === undefined
    if (kept) upstream.stream.resume()
    else upstream.destroy()
    this.#finish(kept ? { type: 'kept' } : { type: 'done' })
  }

  lost(error: Error | undefined): void {
    if (this.#answered) this.#options.response.destroy()
    this.#finish({ type: 'lost', unanswered: !this.#answered, error })
  }

  drained(): void {
    this.#options.request.resume()
  }

  #interim({ status, headers }: ResponseHead): void {
    const { response, request } = this.#options
    // `100` is ours to say, and older clients know no other.
    if (request.httpVersionMinor === 0 || status !== 103) return
    const link = headers.flatMap((name, i) =>
      i % 2 === 0 && name.toLowerCase() === 'link' ? [headers[i + 1] ?? ''] : [],
    )
    if (link.length === 0) return
    try {
      response.writeEarlyHints({ link })
    } catch {
      // A hint that node:http finds malformed is not worth failing for.
    }
  }

  #send(chunk: Buffer): void {
    const { upstream, body, request } = this.#options
    const { stream } = upstream
    if (upstream.closed || this.#ended) return
    let room: boolean
    if (body.kind === 'chunked') {
      stream.cork()
      stream.write(`${chunk.length.toString(16)}\r\n`, 'latin1')
      stream.write(chunk)
      room = stream.write('\r\n', 'latin1')
      stream.uncork()
    } else room = stream.write(chunk)
    if (!room) request.pause()
  }

  #sent(): void {
    const { upstream, body, request } = this.#options
    this.#sentAll = true
    if (body.kind !== 'chunked' || upstream.closed || this.#ended) return
    upstream.stream.write(`0\r\n${trailerFields(request.rawTrailers)}\r\n`, 'latin1')
  }

  #room(): void {
    clearTimeout(this.#stall)
    this.#stall = undefined
    if (this.#onRoom) this.#options.response.off('drain', this.#onRoom)
    this.#options.upstream.stream.resume()
  }

  /** The client went away, or was cut off. */
  #gone(): void {
    if (this.#ended) return
    this.#finish({ type: 'done' })
    this.#options.upstream.destroy()
  }

  #finish(end: ExchangeEnd): void {
    if (this.#ended) return
    this.#ended = true
    const { request, response } = this.#options
    clearTimeout(this.#stall)
    response.off('close', this.#onGone)
    if (this.#onRoom) response.off('drain', this.#onRoom)
    if (this.#onData && this.#onEnd) {
      request.off('data', this.#onData).off('end', this.#onEnd)
      request.resume()
    }
    this.#resolve(end)
  }
}

const addTrailers = (response: ServerResponse, trailers: readonly string[]): void => {
  const pairs: [string, string][] = []
  for (let i = 0; i < trailers.length; i += 2)
    if (!NO_TRAILER.test(trailers[i] ?? '')) pairs.push([trailers[i] ?? '', trailers[i + 1] ?? ''])
  response.addTrailers(pairs)
}
