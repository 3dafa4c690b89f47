import type { Socket } from 'node:net'
import type { InstanceLease } from '@bramble/engine'
import { clientErrorResponse } from '@bramble/http'
import { BrambleError, newId } from '@bramble/protocol'
import type { Access } from './access.ts'
import { type PortAddress, portAddress } from './address.ts'
import { admitOrThrow, brokenBy, isNavigation, type Live, type PortContext, REPEATABLE, shown } from './context.ts'
import { type PlainRequest, readPlainRequest } from './plain-request.ts'
import { refusalText } from './refuse.ts'
import { requestBody, requestHead } from './request-head.ts'
import { responseHeaders, type ShownAs } from './response-head.ts'
import type { ResponseHead } from './response-reader.ts'
import { headText, interimText, trailersText } from './response-text.ts'
import type { Upstream, UpstreamUser } from './upstream.ts'

/** What is under way: one request at a time, as HTTP/1.1 has it. */
interface Asked extends ShownAs, Live {
  readonly request: PlainRequest
  readonly address: PortAddress
  /** What the app is sent of it. */
  readonly head: string
  readonly body: Buffer | undefined
  readonly repeatable: boolean
  isRepeated: boolean
  wasUsed: boolean
  lease: InstanceLease | undefined
  upstream: Upstream | undefined
  /** The final response has begun. */
  answered: boolean
  chunked: boolean
  keepsAlive: boolean
}

/** Larger pieces of a body are written as they are. */
const COPIED_BYTES_MAX = 8 * 1024

/** For an answer to be taken when the node closes. */
const CLOSE_MS = 1_000

/**
 * A client's connection, from its first byte: serves plain requests for ports itself, and gives the connection to the server
 * of node:http, for good, with the first request that is anything else. Most of what node:http does for a request is not
 * needed to pass one on, and takes longer than all the rest.
 */
export class PortConnection implements UpstreamUser {
  readonly #context: PortContext
  readonly #socket: Socket
  readonly #pass: () => void
  readonly #onLeft: () => void
  #asked: Asked | undefined
  /** What came after the request under way. */
  #held: Buffer | undefined
  /** What is to be written, as Latin-1. */
  #text = ''
  #room = true
  #stall: NodeJS.Timeout | undefined
  #gone: AbortController | undefined
  #quietSince = performance.now()
  #served = 0
  #ended = false
  /** It ends when the last answer is taken. */
  #closing = false

  readonly #onData = (chunk: Buffer): void => this.#take(chunk)
  readonly #onDrain = (): void => this.#drained()
  readonly #onClose = (): void => this.#leave()
  readonly #onCut = (): void => void this.#socket.destroy()
  /** A client that closed its side takes no answer: that it only half did is not told apart from its end. */
  readonly #onEnd = (): void => {
    if (this.#asked !== undefined) this.#socket.destroy()
    else this.#socket.destroySoon()
  }
  readonly #onError = (): void => void this.#socket.destroy()

  /** `pass` gives the socket to node:http; `onLeft` is called once, when it is passed or closed. */
  constructor(context: PortContext, socket: Socket, pass: () => void, onLeft: () => void) {
    this.#context = context
    this.#socket = socket
    this.#pass = pass
    this.#onLeft = onLeft
    socket.on('data', this.#onData).on('drain', this.#onDrain).on('end', this.#onEnd)
    socket.on('error', this.#onError).on('close', this.#onClose)
  }

  /** Ends it, and what is under way; an answer that is there may still be taken. */
  close(): void {
    if (this.#asked !== undefined || this.#socket.writableLength === 0) {
      this.#socket.destroy()
      return
    }
    this.#closing = true
    this.#socket.destroySoon()
    clearTimeout(this.#stall)
    this.#stall = setTimeout(this.#onCut, CLOSE_MS).unref()
  }

  /** Ends the connection when it has been idle for too long. */
  sweep(now: number): void {
    if (this.#asked !== undefined || !this.#room) return
    const { keepAliveMs, headersTimeoutMs } = this.#context
    const quietMs = now - this.#quietSince
    if ((this.#served > 0 || this.#closing) && quietMs >= keepAliveMs) this.#socket.destroy()
    else if (this.#served === 0 && !this.#closing && quietMs >= headersTimeoutMs) {
      this.#closing = true
      this.#socket.end(clientErrorResponse('ERR_HTTP_REQUEST_TIMEOUT', newId('request')))
      this.#socket.destroySoon()
    }
  }

  #take(chunk: Buffer): void {
    if (this.#closing) return
    const data = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk])
    this.#held = undefined
    // One after the other, and none while the last answer is not taken: what waits for it stays with the client.
    if (this.#asked !== undefined || !this.#room) {
      this.#held = data
      this.#socket.pause()
      return
    }
    const request = readPlainRequest(data, this.#socket, this.#context.maxHeaderBytes)
    const address = request && portAddress(request.headers.host, request.url, this.#context.domain)
    if (request === undefined || address === undefined) {
      this.#handOver(data)
      return
    }
    if (request.end < data.length) this.#held = data.subarray(request.end)
    try {
      const access = admitOrThrow(this.#context, request, address)
      // What a browser is shown in the place of a page.
      if (isNavigation(request) && (access.signed || (address.prefix !== '' && !access.target.startsWith('/')))) {
        this.#handOver(data)
        return
      }
      this.#begin(request, address, access, data)
    } catch (error) {
      this.#refuse(request, error)
    }
  }

  #handOver(data: Buffer): void {
    const socket = this.#socket
    this.#leave()
    socket.pause()
    socket.off('data', this.#onData).off('drain', this.#onDrain).off('end', this.#onEnd)
    socket.off('error', this.#onError).off('close', this.#onClose)
    socket.unshift(data)
    this.#pass()
    socket.resume()
  }

  #begin(request: PlainRequest, address: PortAddress, access: Access, data: Buffer): void {
    const { exposure } = access
    const { prefix } = address
    const head = requestHead(request, { access, prefix, body: requestBody(request) })
    const hasBody = request.end > request.headEnd
    const asked: Asked = {
      request,
      address,
      exposure,
      head,
      prefix,
      host: request.headers.host,
      body: hasBody ? data.subarray(request.headEnd, request.end) : undefined,
      repeatable: !hasBody && REPEATABLE.has(request.method),
      isRepeated: false,
      wasUsed: false,
      lease: undefined,
      upstream: undefined,
      answered: false,
      chunked: false,
      keepsAlive: false,
      end: this.#onCut,
    }
    this.#asked = asked
    this.#context.live.add(asked)
    this.#context.instances.use(exposure.instanceId, exposure.tenant).then(
      (lease) => this.#leased(asked, lease),
      (error: unknown) => this.#failed(asked, error),
    )
  }

  #leased(asked: Asked, lease: InstanceLease): void {
    if (asked !== this.#asked) {
      lease[Symbol.dispose]()
      return
    }
    asked.lease = lease
    this.#connect(asked, lease)
  }

  #connect(asked: Asked, lease: InstanceLease): void {
    const { exposure, isRepeated, repeatable } = asked
    const signal = (): AbortSignal => {
      this.#gone = new AbortController()
      return this.#gone.signal
    }
    try {
      const taken = this.#context.pool.take(lease, exposure, { fresh: isRepeated || !repeatable, signal })
      if (!(taken instanceof Promise)) this.#send(asked, taken)
      else
        taken.then(
          (upstream) => this.#send(asked, upstream),
          (error: unknown) => this.#failed(asked, error),
        )
    } catch (error) {
      this.#failed(asked, error)
    }
  }

  #send(asked: Asked, upstream: Upstream): void {
    this.#gone = undefined
    if (asked !== this.#asked) {
      this.#context.pool.give(upstream, asked.exposure)
      return
    }
    asked.upstream = upstream
    asked.wasUsed = upstream.served > 0
    upstream.begin(this, asked.request.method, false)
    const { stream } = upstream
    if (asked.body === undefined) stream.write(asked.head, 'latin1')
    else stream.write(Buffer.concat([Buffer.from(asked.head, 'latin1'), asked.body]))
  }

  head(head: ResponseHead): void {
    const asked = this.#asked
    if (asked === undefined) return
    if (head.status < 200) {
      this.#text += interimText(head)
      return
    }
    asked.answered = true
    asked.keepsAlive = head.keepsAlive
    asked.chunked = head.framing === 'chunked' || head.framing === 'close'
    const headers = responseHeaders(head, asked)
    if (asked.chunked) headers.push('transfer-encoding', 'chunked')
    this.#text += headText({ status: head.status, reason: head.reason, headers, keepAliveMs: this.#keepAliveMs() })
  }

  body(data: Buffer): void {
    const asked = this.#asked
    if (asked === undefined || data.length === 0) return
    if (asked.chunked) this.#text += `${data.length.toString(16)}\r\n`
    if (data.length <= COPIED_BYTES_MAX) this.#text += data.toString('latin1')
    else {
      this.#flush()
      this.#room = this.#socket.write(data)
    }
    if (asked.chunked) this.#text += '\r\n'
    if (this.#text.length > COPIED_BYTES_MAX) this.#flush()
  }

  /** A body may be long in coming (server-sent events): what came of it does not wait. */
  fed(): void {
    this.#flush()
    if (this.#room || this.#asked?.upstream === undefined) return
    this.#asked.upstream.stream.pause()
    this.#watchStall()
  }

  end(trailers: readonly string[], rest: Buffer | undefined): void {
    const asked = this.#asked
    if (asked === undefined) return
    if (asked.chunked) this.#text += trailersText(trailers)
    this.#flush()
    const { upstream, exposure } = asked
    if (asked.keepsAlive && rest === undefined && upstream) {
      upstream.stream.resume()
      this.#context.pool.give(upstream, exposure)
    } else upstream?.destroy()
    this.#finish(asked)
    this.#answered()
  }

  lost(error: Error | undefined): void {
    const asked = this.#asked
    if (asked === undefined) return
    if (asked.answered) {
      this.#socket.destroy()
      return
    }
    const { lease, upstream, wasUsed, repeatable, isRepeated } = asked
    // An app may close a connection at the moment it is used again (RFC 9112, 9.3.1).
    if (lease && wasUsed && repeatable && !isRepeated && !upstream?.heard) {
      asked.isRepeated = true
      asked.upstream = undefined
      this.#connect(asked, lease)
    } else this.#failed(asked, brokenBy({ type: 'lost', unanswered: true, error }))
  }

  drained(): void {}

  #flush(): void {
    if (this.#text === '') return
    const text = this.#text
    this.#text = ''
    this.#room = this.#socket.write(text, 'latin1')
  }

  #watchStall(): void {
    this.#stall ??= setTimeout(() => this.#socket.destroy(), this.#context.stallTimeoutMs).unref()
  }

  #drained(): void {
    this.#room = true
    clearTimeout(this.#stall)
    this.#stall = undefined
    if (this.#asked !== undefined) this.#asked.upstream?.stream.resume()
    else if (this.#held !== undefined) this.#next()
  }

  /** The request that came while another was under way. */
  #next(): void {
    const held = this.#held
    if (held === undefined || this.#ended || this.#asked !== undefined || !this.#room) return
    this.#held = undefined
    this.#take(held)
    if (!this.#ended && this.#held === undefined) this.#socket.resume()
  }

  #finish(asked: Asked): void {
    this.#asked = undefined
    this.#context.live.delete(asked)
    asked.lease?.[Symbol.dispose]()
  }

  #failed(asked: Asked, error: unknown): void {
    if (asked !== this.#asked) return
    this.#finish(asked)
    this.#refuse(asked.request, error)
  }

  /** Answers in the place of the app. */
  #refuse(request: PlainRequest, thrown: unknown): void {
    this.#text += refusalText(request, shown(this.#context, thrown), this.#keepAliveMs())
    this.#flush()
    this.#answered()
  }

  #keepAliveMs(): number | undefined {
    return this.#context.isClosing() ? undefined : this.#context.keepAliveMs
  }

  /** The client has its answer. */
  #answered(): void {
    this.#quietSince = performance.now()
    this.#served++
    if (!this.#room) this.#watchStall()
    if (this.#context.isClosing()) {
      this.#closing = true
      this.#socket.destroySoon()
    } else if (this.#held !== undefined && this.#room) process.nextTick(() => this.#next())
  }

  /** It is not ours any more, or closed. */
  #leave(): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#stall)
    this.#held = undefined
    const asked = this.#asked
    if (asked !== undefined) {
      this.#finish(asked)
      this.#gone?.abort(new BrambleError('cancelled', { detail: 'the client went away' }))
      asked.upstream?.destroy()
    }
    this.#onLeft()
  }
}
