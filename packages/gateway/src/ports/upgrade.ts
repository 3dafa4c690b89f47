import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
import { responseHeaders, type ShownAs } from './response-head.ts'
import type { ResponseHead } from './response-reader.ts'
import type { Upstream, UpstreamUser } from './upstream.ts'

export interface UpgradeOptions {
  readonly request: IncomingMessage
  readonly socket: Duplex
  /** What the client sent after its request. */
  readonly early: Buffer
  readonly upstream: Upstream
  readonly head: string
  readonly shown: ShownAs
}

/**
 * Asks the app to switch protocols (RFC 9110, 7.8), and joins client and app when it does, until either side ends. Where it
 * does not, its answer is the client's, and the connection ends after it. Rejects where there is no answer.
 */
export const upgrade = (options: UpgradeOptions): Promise<void> =>
  new Promise((resolve, reject) => new Switch(options, resolve, reject).start())

class Switch implements UpstreamUser {
  readonly #options: UpgradeOptions
  readonly #resolve: () => void
  readonly #reject: (error: Error) => void
  readonly #onGone = (): void => this.#options.upstream.destroy()
  #switched = false
  #answered = false

  constructor(options: UpgradeOptions, resolve: () => void, reject: (error: Error) => void) {
    this.#options = options
    this.#resolve = resolve
    this.#reject = reject
  }

  start(): void {
    const { request, socket, upstream, head } = this.#options
    upstream.begin(this, request.method ?? 'GET', true)
    socket.on('close', this.#onGone)
    if (socket.destroyed) upstream.destroy()
    else upstream.stream.write(head, 'latin1')
  }

  head(head: ResponseHead): void {
    if (head.status < 200 && head.status !== 101) return
    const { socket, shown } = this.#options
    this.#answered = true
    this.#switched = head.status === 101
    let text = `HTTP/1.1 ${head.status} ${head.reason}\r\n`
    const headers = responseHeaders(head, shown)
    for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`
    if (this.#switched) {
      const at = head.headers.findIndex((name, i) => i % 2 === 0 && name.toLowerCase() === 'upgrade')
      text += `connection: upgrade\r\nupgrade: ${head.headers[at + 1] ?? this.#options.request.headers.upgrade}\r\n`
    } else text += 'connection: close\r\n'
    socket.write(`${text}\r\n`, 'latin1')
  }

  body(data: Buffer): void {
    const { socket, upstream } = this.#options
    if (socket.write(data)) return
    upstream.stream.pause()
    socket.once('drain', () => upstream.stream.resume())
  }

  end(_trailers: readonly string[], rest: Buffer | undefined): void {
    const { socket, upstream, early } = this.#options
    socket.off('close', this.#onGone)
    if (!this.#switched) {
      upstream.destroy()
      socket.end()
      this.#resolve()
      return
    }
    const stream = upstream.release()
    if (rest) socket.write(rest)
    if (early.length > 0) stream.write(early)
    join(socket, stream).then(this.#resolve)
  }

  lost(error: Error | undefined): void {
    const { socket } = this.#options
    socket.off('close', this.#onGone)
    if (this.#answered || socket.destroyed) {
      socket.destroy()
      this.#resolve()
      return
    }
    const why = error?.message ?? 'it closed the connection without an answer'
    this.#reject(new BrambleError('bad_response', { detail: `the app: ${why}`, cause: error }))
  }

  fed(): void {}
  drained(): void {}
}

/** Joins two streams until both directions have ended, or either breaks. Never rejects. */
const join = (left: Duplex, right: Duplex): Promise<void> =>
  new Promise((resolve) => {
    if (left.destroyed || right.destroyed) {
      left.destroy()
      right.destroy()
      return resolve()
    }
    let open = 2
    const done = (): void => {
      left.destroy()
      right.destroy()
      if (--open === 0) resolve()
    }
    for (const stream of [left, right]) {
      stream.on('error', () => stream.destroy())
      stream.once('close', done)
    }
    left.pipe(right)
    right.pipe(left)
  })
