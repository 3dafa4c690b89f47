import type { Duplex } from 'node:stream'
import { BadResponse, type ResponseEvents, ResponseReader } from './response-reader.ts'

/** Who uses a connection now. */
export interface UpstreamUser extends ResponseEvents {
  /** The connection is gone before the response was whole. `error` is there where something else than its end was it. */
  lost(error: Error | undefined): void
  /** All bytes that came together were taken. */
  fed(): void
  /** More may be written. */
  drained(): void
}

/**
 * One connection to an app, for one request after the other. It belongs to one user at a time; bytes that come while it
 * has none were not asked for, and end it.
 */
export class Upstream {
  readonly stream: Duplex
  readonly onClose: () => void
  closed = false
  /** How many responses it has carried. */
  served = 0
  idleSince = 0
  /** Whether a byte of the present response has come. */
  heard = false
  #user: UpstreamUser | undefined
  readonly #reader: ResponseReader

  constructor(stream: Duplex, onClose: () => void) {
    this.stream = stream
    this.onClose = onClose
    this.#reader = new ResponseReader({
      head: (head) => this.#user?.head(head),
      body: (data) => this.#user?.body(data),
      end: (trailers, rest) => {
        const user = this.#user
        this.#user = undefined
        this.served++
        user?.end(trailers, rest)
      },
    })
    stream.on('data', (chunk: Buffer) => this.#take(chunk))
    stream.on('drain', () => this.#user?.drained())
    stream.on('end', () => this.#ended())
    stream.on('error', (error) => this.destroy(error))
    stream.on('close', () => this.destroy())
  }

  begin(user: UpstreamUser, method: string, upgrades: boolean): void {
    this.heard = false
    this.#user = user
    this.#reader.reset(method, upgrades)
  }

  /** Gives the stream to whoever switched protocols; it counts as open until it closes. */
  release(): Duplex {
    const { stream } = this
    this.#user = undefined
    this.closed = true
    for (const event of ['data', 'drain', 'end', 'error', 'close']) stream.removeAllListeners(event)
    if (stream.destroyed) this.onClose()
    else stream.once('close', this.onClose)
    return stream
  }

  destroy(error?: Error): void {
    if (this.closed) return
    this.closed = true
    this.stream.destroy()
    const user = this.#user
    this.#user = undefined
    this.onClose()
    user?.lost(error)
  }

  #take(chunk: Buffer): void {
    if (this.#user === undefined) {
      this.destroy()
      return
    }
    this.heard = true
    try {
      this.#reader.feed(chunk)
      this.#user?.fed()
    } catch (error) {
      this.destroy(asError(error))
    }
  }

  #ended(): void {
    if (this.#user === undefined) {
      this.destroy()
      return
    }
    try {
      this.#reader.close()
      this.destroy()
    } catch (error) {
      this.destroy(this.heard ? asError(error) : undefined)
    }
  }
}

const asError = (thrown: unknown): Error => {
  if (thrown instanceof BadResponse) return thrown
  return thrown instanceof Error ? thrown : new Error(String(thrown))
}
