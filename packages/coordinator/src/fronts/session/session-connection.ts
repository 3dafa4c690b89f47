import { helloDigest } from '@bramble/identity'
import { type FrameCodec, frameCodec } from '@bramble/identity/node'
import {
  BrambleError,
  type Challenge,
  type CoordinatorFrame,
  type Hello,
  helloSchema,
  type NodeId,
  type Problem,
  parse,
  toBrambleError,
  type WorkerFrame,
  workerFrameSchema,
} from '@bramble/protocol'
import type { WebSocket } from 'ws'
import type { WorkerSession } from '../../network/network.ts'
import { checkCommits, keyOfLease } from '../check-commits.ts'
import type { FrontContext } from '../front-context.ts'
import { type Signer, signerOf } from '../node-requests.ts'
import { frameTexts } from './frame-texts.ts'
import { Pace } from './pace.ts'

export interface ConnectionOptions {
  readonly node: NodeId
  /** Of its address: for placement, and for rates. */
  readonly subnet: string
  readonly client: string
  readonly challenge: Challenge
  /** `opening`: it never said who it is. */
  readonly ended: (reason: string, opening: boolean) => void
  /** It said who it is, or will not any more. */
  readonly opened: () => void
}

/** How long a worker may take for its side of the closing. */
const CLOSE_MS = 5000
/** Within it, workers come back whose streams were ended all at once. */
const SPREAD_MS = 2000

/**
 * One worker's stream: challenge, hello, welcome, then frames with codes until it ends. There are tens of thousands, so one holds
 * little: no timer, and nothing of the request that it began with.
 *
 * What a worker says is taken in its order. Where it says more than it may, or than the network takes, its socket is not read for a
 * while. Where it does not take what it is sent, it is cut off.
 */
export class SessionConnection {
  readonly #context: FrontContext
  readonly #ws: WebSocket
  readonly #options: ConnectionOptions
  readonly #pace: Pace
  #phase: 'opening' | 'welcoming' | 'open' | 'ending' | 'ended' = 'opening'
  #codec: FrameCodec | undefined
  #signer: Signer | undefined
  #session: WorkerSession | undefined
  /** What the network sent before the welcome went out. */
  #early: CoordinatorFrame[] = []
  #heardMs = performance.now()
  #silentMs: number
  /** Frames whose results are being checked; what comes after them waits. */
  #checking: Promise<unknown> | undefined
  /** Why results were refused here, until the network has recorded it. */
  #refused: Map<string, Problem> | undefined
  #reason = 'closed'

  constructor(context: FrontContext, ws: WebSocket, options: ConnectionOptions) {
    this.#context = context
    this.#ws = ws
    this.#options = options
    this.#silentMs = context.limits.helloTimeoutMs
    this.#pace = new Pace(ws, context.limits)
    ws.on('message', (data: Buffer, binary: boolean) => this.#message(data, binary))
    ws.on('ping', () => {
      this.#heardMs = performance.now()
    })
    // What is no WebSocket frame, or too large a one: ws closes it with the right code.
    ws.on('error', () => {
      this.#reason = 'protocol'
    })
    ws.on('close', () => this.#closed())
    ws.send(JSON.stringify(options.challenge))
  }

  /** Ends a stream that was silent for too long. */
  sweep(nowMs: number): void {
    if (nowMs - this.#heardMs > this.#silentMs) this.terminate(this.#phase === 'opening' ? 'no_hello' : 'silent')
  }

  /** Says why, and ends. Without `retryAfterMs` the worker does not come back. */
  bye(error: BrambleError, retryAfterMs?: number): void {
    this.#bye(error.toProblem(), retryAfterMs)
  }

  terminate(reason: string): void {
    if (this.#phase !== 'ending') this.#reason = reason
    this.#ws.terminate()
  }

  #bye(error: Problem, retryAfterMs: number | undefined): void {
    if (this.#phase === 'ending' || this.#phase === 'ended') return
    this.#send({ type: 'bye', error, ...(retryAfterMs !== undefined && { retryAfterMs }) })
    if (this.#phase === 'opening') this.#options.opened()
    this.#reason = error.code
    this.#phase = 'ending'
    this.#pace.stop()
    this.#ws.close(1000)
    this.#silentMs = CLOSE_MS
    this.#heardMs = performance.now()
  }

  #closed(): void {
    const opening = this.#phase === 'opening'
    // After a word of parting the worker is there, and comes back at its own time.
    const broken = this.#phase === 'open'
    this.#phase = 'ended'
    this.#pace.stop()
    this.#session?.close({ broken })
    this.#session = undefined
    this.#options.ended(this.#reason, opening)
  }

  #message(data: Buffer, binary: boolean): void {
    this.#heardMs = performance.now()
    if (this.#phase === 'ending' || this.#phase === 'ended') return
    try {
      if (binary) throw new BrambleError('invalid_request', { detail: 'frames are text' })
      if (this.#phase === 'opening') {
        this.#hello(data.toString())
        return
      }
      if (!this.#codec || !this.#session)
        throw new BrambleError('invalid_request', { detail: 'a frame came before the welcome' })
      this.#context.metrics.frames('in', data.length)
      const frame = parse(workerFrameSchema, parseText(this.#codec.open(data.toString())))
      this.#pace.took(data.length)
      this.#take(frame, this.#session)
    } catch (error) {
      this.#broken(error)
    }
  }

  #hello(text: string): void {
    const said = parseText(text)
    const hello = parse(helloSchema, said)
    const { node, challenge, client, subnet } = this.#options
    const { identity, curve, rates } = this.#context
    // As it came: the schema fills in what was left out.
    const digest = digestOf(challenge, said as Hello)
    const signer = digest && signerOf(curve, digest, hello.signature, node)
    if (hello.node !== node || !signer) {
      rates.failures.owe(client, 1)
      throw new BrambleError('signature_invalid', { detail: `\`${node}\` did not sign this hello` })
    }
    this.#signer = signer
    const key = identity.sessionKey(hello.sessionKey, Buffer.from(challenge.nonce.slice(2), 'hex'))
    const codec = frameCodec({ key, side: 'coordinator' })
    this.#phase = 'welcoming'
    this.#options.opened()
    const { report, running } = hello
    this.#context.network
      .session({ node, report, running, subnet }, (frame) => this.#deliver(frame))
      .then((session) => this.#welcome(session, codec))
      .catch(this.#broken)
  }

  #welcome(session: WorkerSession, codec: FrameCodec): void {
    if (this.#phase !== 'welcoming') {
      session.close()
      return
    }
    this.#ws.send(JSON.stringify(session.welcome))
    this.#codec = codec
    this.#session = session
    this.#phase = 'open'
    this.#silentMs = this.#context.limits.silentHeartbeats * session.welcome.heartbeatMs
    const early = this.#early
    this.#early = []
    for (const frame of early) this.#deliver(frame)
  }

  /** In the order in which frames came. Only results wait to be checked, and what comes while they are. */
  #take(frame: WorkerFrame, session: WorkerSession): void {
    if (frame.type !== 'commit' && this.#checking === undefined) {
      session.frame(frame).then(this.#settled, this.#broken)
      return
    }
    const checking = this.#check(frame, session, this.#checking)
    this.#checking = checking
    checking
      .then((taken) => {
        if (this.#checking === checking) this.#checking = undefined
        return Promise.all(taken)
      })
      .then(this.#settled, this.#broken)
  }

  /** What the network was given, which it takes in its time. */
  async #check(frame: WorkerFrame, session: WorkerSession, before: Promise<unknown> | undefined) {
    await before
    if (frame.type !== 'commit' || !this.#signer) return [session.frame(frame)]
    const { good, bad } = await checkCommits(this.#context, frame.items, this.#signer)
    if (bad.length === 0) return [session.frame(frame)]
    this.#refused ??= new Map()
    for (const { failure, error } of bad) this.#refused.set(keyOfLease(failure), error)
    const failed = session.frame({ type: 'failed', items: bad.map(({ failure }) => failure) })
    return good.length === 0 ? [failed] : [failed, session.frame({ type: 'commit', items: good })]
  }

  readonly #settled = (): void => this.#pace.settled()

  /** Whatever the network cannot go on with: another coordinator, or this one later, may. */
  readonly #broken = (thrown: unknown): void => {
    const error = toBrambleError(thrown)
    if (error.code === 'internal') this.#context.log?.error({ err: thrown, node: this.#options.node }, error.detail)
    const spread = Math.round(Math.random() * SPREAD_MS)
    this.bye(error, error.retryable ? (error.retryAfterMs ?? 0) + spread : undefined)
  }

  #deliver(frame: CoordinatorFrame): void {
    switch (this.#phase) {
      case 'opening':
      case 'welcoming':
        if (frame.type === 'bye') this.#bye(frame.error, frame.retryAfterMs)
        else this.#early.push(frame)
        return
      case 'open':
        if (frame.type === 'bye') this.#bye(frame.error, frame.retryAfterMs)
        else this.#send(frame)
        return
      case 'ending':
      case 'ended':
        return
      default:
        this.#phase satisfies never
    }
  }

  #send(frame: CoordinatorFrame): void {
    const { metrics, limits } = this.#context
    for (const text of frameTexts(this.#explained(frame))) {
      const data = this.#codec ? this.#codec.seal(text) : text
      metrics.frames('out', data.length)
      this.#ws.send(data)
    }
    if (this.#ws.bufferedAmount > limits.maxSessionBufferBytes) this.terminate('slow')
  }

  /** The network acknowledges that a bad result is recorded; its worker is told why it was bad. */
  #explained(frame: CoordinatorFrame): CoordinatorFrame {
    const refused = this.#refused
    if (frame.type !== 'ack' || !refused) return frame
    const items = frame.items.map((item) => {
      const key = keyOfLease(item)
      const error = refused.get(key)
      refused.delete(key)
      return error ? { ...item, error } : item
    })
    if (refused.size === 0) this.#refused = undefined
    return { ...frame, items }
  }
}

/** Undefined for what nobody can have signed. */
const digestOf = (challenge: Challenge, hello: Hello): Uint8Array | undefined => {
  try {
    return helloDigest(challenge, hello)
  } catch {
    return undefined
  }
}

const parseText = (text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new BrambleError('invalid_json', { detail: 'a frame is not JSON', cause })
  }
}
