import { bytesOfHex, helloDigest } from '@bramble/identity'
import { type FrameCodec, frameCodec } from '@bramble/identity/node'
import {
  BrambleError,
  type Challenge,
  challengeSchema,
  type Hello,
  LIMITS,
  parse,
  problemSchema,
  toBrambleError,
  type WorkerFrame,
  welcomeSchema,
} from '@bramble/protocol'
import { WebSocket } from 'ws'
import type { Item } from './holdings.ts'
import type { Connect, Link, LinkContext, LinkEnd } from './link.ts'
import { readFrame } from './read-frame.ts'

/** From the connection's beginning to the welcome. */
const OPENING_MS = 20_000
/** Leases carry whole specs; a spec came to the coordinator in one body. */
const MAX_MESSAGE_BYTES = 2 * LIMITS.maxBodyBytes.value
/** Of heartbeats without a word from the coordinator: then it is asked, and then it is gone. */
const ASK_AFTER_BEATS = 2
const GONE_AFTER_BEATS = 4
/** Live output waits for the connection while more than this is on its way. */
const HIGH_WATER_BYTES = 256 * 1024
const MAX_ERROR_BODY_BYTES = 16 * 1024

/** `wss://…/api/v1/nodes/<id>/session` */
const sessionUrl = (url: string, node: string): URL => {
  const of = new URL(`api/v1/nodes/${node}/session`, url.endsWith('/') ? url : `${url}/`)
  of.protocol = of.protocol === 'https:' ? 'wss:' : 'ws:'
  return of
}

/** One connection of the stream: challenge, hello, welcome, then frames with codes until it ends. */
export const streamLink: Connect = (context, signal) =>
  new Promise((resolve) => {
    const { identity, url } = context.options
    const socket = new WebSocket(sessionUrl(url, identity.id), {
      perMessageDeflate: false,
      maxPayload: MAX_MESSAGE_BYTES,
      handshakeTimeout: OPENING_MS,
    })
    const stream = new Stream(context, socket, (end) => {
      signal.removeEventListener('abort', leave)
      resolve(end)
    })
    const leave = (): void => stream.leave()
    signal.addEventListener('abort', leave, { once: true })
    if (signal.aborted) leave()
  })

class Stream implements Link {
  readonly #context: LinkContext
  readonly #socket: WebSocket
  readonly #done: (end: LinkEnd) => void
  #phase: 'challenge' | 'welcome' | 'open' | 'ended' = 'challenge'
  #codec: FrameCodec | undefined
  #network = ''
  #end: LinkEnd | undefined
  #cancelTimer: () => void
  #heardMs = 0

  constructor(context: LinkContext, socket: WebSocket, done: (end: LinkEnd) => void) {
    this.#context = context
    this.#socket = socket
    this.#done = done
    this.#cancelTimer = context.schedule(OPENING_MS, () => this.#fail(silent('did not say welcome in time')))
    socket.on('message', (data: Buffer) => this.#message(data.toString()))
    socket.on('pong', () => {
      this.#heardMs = performance.now()
    })
    socket.on('error', (error) => this.#note({ error: unreachable(error) }))
    socket.on('unexpected-response', (_request, response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes <= MAX_ERROR_BODY_BYTES) chunks.push(chunk)
      })
      response.on('close', () => {
        this.#note({ error: refusal(response.statusCode ?? 0, Buffer.concat(chunks).toString()) })
        socket.terminate()
      })
    })
    socket.on('close', (code, reason) => this.#closed(code, reason.toString()))
  }

  /** Nothing more is to be said. */
  leave(): void {
    this.#note({ error: new BrambleError('cancelled', { detail: 'the worker left' }), retryAfterMs: 'never' })
    this.#socket.close(1000)
    // A peer that is gone does not close its half.
    this.#cancelTimer()
    this.#cancelTimer = this.#context.schedule(1000, () => this.#socket.terminate())
  }

  results(items: readonly Item[]): void {
    for (const type of ['commit', 'failed'] as const) {
      let texts: string[] = []
      let bytes = 0
      const send = (): void => {
        if (texts.length > 0) this.#text(`{"type":"${type}","items":[${texts.join(',')}]}`)
        texts = []
        bytes = 0
      }
      for (const item of items) {
        if (item.kind !== type) continue
        if (bytes + item.bytes > LIMITS.maxFrameBytes.value - 256 || texts.length >= LIMITS.maxLeases.value) send()
        texts.push(item.text)
        bytes += item.bytes + 1
      }
      send()
    }
  }

  started(items: Parameters<Link['started']>[0]): void {
    this.#frame({ type: 'started', items: [...items] })
  }

  report(report: Parameters<Link['report']>[0]): void {
    this.#frame({ type: 'report', report })
  }

  drain(): void {
    this.#frame({ type: 'drain' })
  }

  reply(reply: Parameters<Link['reply']>[0]): void {
    this.#frame({ type: 'reply', ...reply })
  }

  async output(frame: Extract<WorkerFrame, { type: 'output' }>): Promise<void> {
    if (this.#codec === undefined || this.#phase !== 'open') return
    const text = this.#codec.seal(JSON.stringify(frame))
    await new Promise<void>((resolve) => {
      // Called too when the connection breaks.
      this.#socket.send(text, () => resolve())
      if (this.#socket.bufferedAmount < HIGH_WATER_BYTES) resolve()
    })
  }

  #frame(frame: WorkerFrame): void {
    this.#text(JSON.stringify(frame))
  }

  #text(text: string): void {
    if (this.#codec !== undefined && this.#phase === 'open') this.#socket.send(this.#codec.seal(text), () => {})
  }

  #message(data: string): void {
    this.#heardMs = performance.now()
    try {
      switch (this.#phase) {
        case 'challenge':
          this.#challenged(parse(challengeSchema, JSON.parse(data)))
          break
        case 'welcome':
          this.#welcomed(data)
          break
        case 'open':
          this.#took(this.#codec?.open(data) ?? '')
          break
        case 'ended':
          break
        default:
          this.#phase satisfies never
      }
    } catch (error) {
      this.#fail(error instanceof SyntaxError ? silent('said what is not JSON') : toBrambleError(error))
    }
  }

  #challenged(challenge: Challenge): void {
    const { options, clock, holdings } = this.#context
    const { identity, pin, ephemeral } = options
    try {
      pin?.check(challenge)
    } catch (error) {
      this.#note({ error: toBrambleError(error), retryAfterMs: 'never' })
      this.#socket.close(1008)
      return
    }
    clock.correct(challenge.serverTimeMs)
    const session = ephemeral()
    const key = session.sessionKey(challenge.publicKey, bytesOfHex(challenge.nonce, 32))
    this.#codec = frameCodec({ key, side: 'worker' })
    this.#network = challenge.network
    const running = holdings.refs().slice(0, LIMITS.maxLeases.value)
    const about = { node: identity.id, sessionKey: session.publicKey, report: this.#context.report(), running }
    const hello: Omit<Hello, 'signature'> = { type: 'hello', version: 1, ...about }
    const signature = identity.sign(helloDigest(challenge, hello))
    this.#phase = 'welcome'
    this.#socket.send(JSON.stringify({ ...hello, signature }))
  }

  #welcomed(data: string): void {
    const value: unknown = JSON.parse(data)
    if (isBye(value)) {
      this.#took(data)
      return
    }
    const welcome = parse(welcomeSchema, value)
    this.#phase = 'open'
    this.#cancelTimer()
    this.#beatAfter(welcome.heartbeatMs)
    this.#context.opened(this, this.#network, welcome)
  }

  #took(text: string): void {
    const { frame, refused } = readFrame(text)
    if (frame?.type === 'bye') {
      this.#note({ error: BrambleError.fromProblem(frame.error), retryAfterMs: frame.retryAfterMs ?? 'never' })
      this.#socket.close(1000)
      return
    }
    if (frame !== undefined) this.#context.took(frame, refused)
  }

  #beatAfter(heartbeatMs: number): void {
    this.#cancelTimer = this.#context.schedule(heartbeatMs, () => {
      if (this.#phase !== 'open') return
      const silentBeats = (performance.now() - this.#heardMs) / heartbeatMs
      if (silentBeats > GONE_AFTER_BEATS) {
        this.#fail(silent('has fallen silent'))
        return
      }
      this.#frame({ type: 'beat', running: this.#context.holdings.beat().slice(0, LIMITS.maxLeases.value) })
      if (silentBeats > ASK_AFTER_BEATS) this.#socket.ping()
      this.#beatAfter(heartbeatMs)
    })
  }

  #note(end: LinkEnd): void {
    this.#end ??= end
  }

  #fail(error: BrambleError): void {
    this.#note({ error })
    this.#socket.terminate()
  }

  #closed(code: number, reason: string): void {
    this.#cancelTimer()
    this.#phase = 'ended'
    const error = new BrambleError('connection_failed', {
      detail: `the coordinator closed the connection (${code}${reason === '' ? '' : `: ${reason.slice(0, 200)}`})`,
    })
    this.#done(this.#end ?? { error })
  }
}

const isBye = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && 'type' in value && value.type === 'bye'

const silent = (what: string): BrambleError =>
  new BrambleError('connection_failed', { detail: `the coordinator ${what}` })

const unreachable = (cause: Error): BrambleError =>
  new BrambleError('connection_failed', { detail: cause.message || String(cause), cause })

/** What an HTTP answer says instead of an upgrade. */
const refusal = (status: number, body: string): BrambleError => {
  try {
    return BrambleError.fromProblem(problemSchema.parse(JSON.parse(body)))
  } catch {
    return new BrambleError('connection_failed', { detail: `the coordinator answered ${status} instead of a stream` })
  }
}
