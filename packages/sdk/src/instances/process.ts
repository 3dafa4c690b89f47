import { BrambleError, type StreamCommandInput } from '@bramble/protocol'
import { joinBytes, toBase64 } from '../bytes.ts'
import type { Output } from '../output.ts'
import { type Feed, feed } from './feed.ts'

/** How a command on a stream ended. */
export interface ProcessEnd {
  /** As in a result: 128+n for signal n, 126 and 127 for what could not start (then with `message`). */
  readonly exitCode: number
  readonly signal?: string | undefined
  readonly message?: string | undefined
}

export interface ProcessLink {
  send(message: StreamCommandInput): Promise<void> | undefined
}

/** Longest piece of input in one message, before base64. */
const PIECE_BYTES = 192 * 1024

/**
 * A command on a stream. Its output is kept until it is read, up to a bound: past it the whole stream waits, so read it, or
 * `wait()`, which lets it go by. It goes on when this client goes away: `kill` ends it, and so does `await using`.
 */
export class StreamProcess implements AsyncIterable<Output>, AsyncDisposable {
  readonly id: string
  readonly #link: ProcessLink
  readonly #output: Feed<Output>
  readonly #end = Promise.withResolvers<ProcessEnd>()
  #pid: number | undefined
  #ended = false

  constructor(id: string, link: ProcessLink) {
    this.id = id
    this.#link = link
    this.#output = feed()
    this.#end.promise.catch(() => undefined)
  }

  /** In the sandbox; undefined for one that could not start. */
  get pid(): number | undefined {
    return this.#pid
  }

  /** Its output as it comes, once, until its end. Leaving the loop lets the rest go by. */
  [Symbol.asyncIterator](): AsyncIterator<Output> {
    return this.#output[Symbol.asyncIterator]()
  }

  /** How it ends. Where nobody reads its output, that goes by. */
  wait(): Promise<ProcessEnd> {
    if (!this.#output.taken) this.#output.drop()
    return this.#end.promise
  }

  /** All that it writes, and how it ends: for commands that write little. */
  async collect(): Promise<ProcessEnd & { stdout: Uint8Array<ArrayBuffer>; stderr: Uint8Array<ArrayBuffer> }> {
    const pieces = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] }
    for await (const output of this) pieces[output.type].push(output.bytes)
    return { ...(await this.#end.promise), stdout: joinBytes(pieces.stdout), stderr: joinBytes(pieces.stderr) }
  }

  /** To its standard input; resolves when more may be written. */
  async write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : data
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = toBase64(bytes.subarray(at, at + PIECE_BYTES))
      await this.#link.send({ type: 'stdin', id: this.id, data: piece, encoding: 'base64' })
    }
  }

  async closeStdin(): Promise<void> {
    await this.#link.send({ type: 'close_stdin', id: this.id })
  }

  /** A name (`SIGINT`, `INT`) or a number. Nothing happens to one that has ended. */
  async kill(signal: string | number = 'SIGTERM'): Promise<void> {
    if (!this.#ended) await this.#link.send({ type: 'signal', id: this.id, signal })
  }

  /** Of its terminal. */
  async resize(cols: number, rows: number): Promise<void> {
    await this.#link.send({ type: 'resize', id: this.id, cols, rows })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return
    this.#output.drop()
    await this.kill('SIGKILL').catch(() => undefined)
    await this.#end.promise.catch(() => undefined)
  }

  /** @internal Told by its stream. */
  readonly tell = {
    ended: this.#end.promise,
    started: (pid: number): void => {
      this.#pid = pid
    },
    output: (output: Output): Promise<void> | undefined => this.#output.push(output, output.data.length),
    exited: (end: ProcessEnd): void => {
      this.#ended = true
      this.#output.end()
      this.#end.resolve(end)
    },
    lost: (error: unknown): void => {
      this.#ended = true
      const why = error ?? new BrambleError('cancelled', { detail: 'the stream was closed' })
      this.#output.end(why)
      this.#end.reject(why)
    },
  }
}
