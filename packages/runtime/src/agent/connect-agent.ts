import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import type { Duplex } from 'node:stream'
import { BrambleError } from '@bramble/protocol'
import type { Agent, ConnectRequest } from './agent.ts'
import { createAgentLog } from './agent-log.ts'
import { createAgentProcess, type ProcessSink, WINDOW_BYTES } from './agent-process.ts'
import { createAgentSocket } from './agent-socket.ts'
import { encodeExec } from './exec-frame.ts'
import {
  createFrameReader,
  dataFrame,
  FRAME,
  PARK_TOKEN_BYTES,
  PROTOCOL_VERSION,
  REFUSED_TOO_MANY_CHANNELS,
} from './frames.ts'

const HELLO_TIMEOUT_MS = 10_000
const PARK_TIMEOUT_MS = 5000
const CHANNEL_MAX = 0xffff_ffff
/** What waits for an agent that reads nothing (its sandbox is paused, say), before signals and sizes are no longer added. */
const UNSENT_BYTES_MAX = 4 * 1024 * 1024
const EAGAIN = 11
const SIGKILL = 9
/** Frames that are less than this together are put into one buffer. */
const COPIED_BYTES_MAX = 16 * 1024

export interface ConnectOptions {
  /** Aborting before the agent said hello ends the stream and rejects with the reason; afterwards it does nothing. */
  signal?: AbortSignal | undefined
  /** How long the agent may take to say hello. */
  helloTimeoutMs?: number | undefined
  /** It may be parked, or a copy of one that was: what the connection that parked it had asked for is ended. */
  parked?: boolean | undefined
}

/** An agent whose stream can be taken away for a while. */
export interface ConnectedAgent extends Agent {
  /**
   * Resolves when the agent stands still and nothing of it leads outside. What runs goes on; what it says, and what is said to it,
   * waits for `resume`. Rejects where it does not, and the connection is over.
   */
  park(): Promise<void>
  /** Goes on over another stream, before the agent has run for 10 s. Rejects, and the connection is over, where the agent has nothing to go on with. */
  resume(stream: Duplex | AgentStream): Promise<void>
}

interface Parking {
  readonly token: Buffer
  /** The agent stands still, and the stream is to end. */
  closing: boolean
  readonly parked: PromiseWithResolvers<void>
  readonly resumed: PromiseWithResolvers<void>
}

type Ping = { resolve: () => void; reject: (error: Error) => void }

/**
 * Speaks to the agent at the other end of `stream`, which it owns from now on; resolves when the agent has said hello.
 *
 * Rejects with `sandbox_died` when the stream ends first, `agent_protocol` when what comes is not an agent's, and
 * `sandbox_failed` after `helloTimeoutMs`. The stream is destroyed in each of these cases.
 */
export const connectAgent = async (
  stream: Duplex | AgentStream,
  options: ConnectOptions = {},
): Promise<ConnectedAgent> => {
  const { signal, helloTimeoutMs = HELLO_TIMEOUT_MS, parked = false } = options
  const connection = openConnection(streamOf(stream), parked)
  const abort = (): void => connection.end(abortError(signal))
  const timer = setTimeout(
    () =>
      connection.end(
        new BrambleError('sandbox_failed', { detail: `the agent did not say hello within ${helloTimeoutMs} ms` }),
      ),
    helloTimeoutMs,
  )
  signal?.addEventListener('abort', abort)
  try {
    if (signal?.aborted) abort()
    await connection.hello
    return connection.agent
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
  }
}

const abortError = (signal: AbortSignal | undefined): Error => {
  const reason: unknown = signal?.reason
  return reason instanceof Error ? reason : new BrambleError('cancelled', { detail: String(reason), cause: reason })
}

/** Of a type that anybody may ask for any number of times: the others are bounded by credit, or by channels. */
const isUnbounded = (frame: Buffer): boolean => {
  const type = frame.readUInt32LE(4)
  return type === FRAME.signal || type === FRAME.resize
}

const protocolError = (detail: string): BrambleError =>
  new BrambleError('agent_protocol', { detail: `the agent sent ${detail}` })

/** A stream that hands its chunks to one taker, who may keep none of them: the memory is used again. */
export interface AgentStream {
  readonly stream: Duplex
  reads(take: (chunk: Buffer) => void): void
}

const streamOf = (stream: Duplex | AgentStream): AgentStream =>
  'reads' in stream ? stream : { stream, reads: (take) => void stream.on('data', take) }

interface Connection {
  readonly agent: ConnectedAgent
  readonly hello: Promise<void>
  end(error: Error | undefined): void
}

const openConnection = (first: AgentStream, parked: boolean): Connection => {
  let stream = first.stream
  const channels = new Map<number, ProcessSink>()
  const pings: Ping[] = []
  const hello = Promise.withResolvers<void>()
  const closed = Promise.withResolvers<Error | undefined>()
  hello.promise.catch(() => {})
  let greeted = false
  /** Named commands that the agent still has to tell of. */
  let announced = 0
  let over: { error: Error } | undefined
  let lastChannel = 0
  /** Set from `park` until `resume` has succeeded. */
  let parking: Parking | undefined
  let parks = 0
  /** Commands that are not to be there when the memory is saved. */
  const transient = new Set<{ kill(signal?: number): void }>()

  const end = (error: Error | undefined): void => {
    if (over !== undefined) return
    const reason = error ?? new BrambleError('sandbox_died', { detail: 'the connection to the agent was closed' })
    if (error === undefined) flush()
    waiting = []
    over = { error: reason }
    hello.reject(reason)
    for (const sink of [...channels.values()]) sink.fail(reason)
    log.fail(reason)
    for (const ping of pings.splice(0)) ping.reject(reason)
    parking?.parked.reject(reason)
    parking?.resumed.reject(reason)
    stream.destroy()
    closed.resolve(error)
  }

  let waiting: Buffer[] = []
  let waitingBytes = 0
  const flush = (): void => {
    const frames = waiting
    if (frames.length === 0 || parking !== undefined) return
    const isMuch = waitingBytes > COPIED_BYTES_MAX
    waiting = []
    waitingBytes = 0
    if (!isMuch) {
      stream.write(frames.length === 1 ? frames[0] : Buffer.concat(frames))
      return
    }
    stream.cork()
    for (const frame of frames) stream.write(frame)
    stream.uncork()
  }

  // Frames leave at the end of a turn of the event loop: those of all who spoke in it in one write, and what lets the agent
  // send more after the turn of every other stream, which a flood on this one would otherwise keep waiting.
  const send = (frame: Buffer): void => {
    if (over !== undefined) return
    if (stream.writableLength + waitingBytes > UNSENT_BYTES_MAX && isUnbounded(frame)) return
    waitingBytes += frame.length
    if (waiting.push(frame) === 1) setImmediate(flush)
  }

  const onHello = (type: number, payload: Buffer): void => {
    if (type !== FRAME.hello) throw new Error('another frame before HELLO')
    const version = payload.readUInt32LE(0)
    if (version !== PROTOCOL_VERSION) throw new Error(`version ${version}, which is not ${PROTOCOL_VERSION}`)
    const [first, next] = [payload.readBigUInt64LE(8), payload.readBigUInt64LE(16)]
    if (first < 1n || next < first || next > BigInt(Number.MAX_SAFE_INTEGER))
      throw new Error(`a log from ${first} to ${next}`)
    if (parking === undefined) log.onHello(Number(first), Number(next))
    else log.onHelloAgain(Number(first), Number(next))
    greeted = true
    announced = payload.readUInt32LE(24)
    const token = parking?.token ?? (parked ? Buffer.alloc(PARK_TOKEN_BYTES) : undefined)
    if (token !== undefined) stream.write(dataFrame(FRAME.resume, 0, token))
    else if (announced === 0) hello.resolve()
  }

  const onParked = (): void => {
    if (parking === undefined || parking.closing) throw new Error('a PARKED that nobody asked for')
    parking.closing = true
    stream.end()
  }

  const onResumed = (payload: Buffer): void => {
    const resumed = payload.readUInt8(0) === 1
    if (parking !== undefined) {
      if (!resumed) throw new Error('that nothing of the connection before is left')
      const { resumed: done } = parking
      parking = undefined
      done.resolve()
      flush()
    } else if (parked && !resumed) hello.resolve()
    else throw new Error('a RESUMED that nobody asked for')
  }

  const onChannel = (channel: number, payload: Buffer): void => {
    if (announced === 0) throw new Error('a CHANNEL that was not announced')
    log.onChannel(channel, payload)
    if (--announced === 0 && !parked) hello.resolve()
  }

  const onRefused = (channel: number, payload: Buffer): void => {
    const sink = channels.get(channel)
    if (sink === undefined || payload.readUInt32LE(0) !== REFUSED_TOO_MANY_CHANNELS)
      throw new Error(`REFUSED on channel ${channel}, reason ${payload.readUInt32LE(0)}`)
    const failed = Buffer.from([EAGAIN, 0, 0, 0, 1, ...Buffer.from('Too many commands at once')])
    sink.onFrame(FRAME.failed, failed)
  }

  const onPong = (): void => {
    const ping = pings.shift()
    if (ping === undefined) throw new Error('a PONG that nobody asked for')
    ping.resolve()
  }

  const onFrame = (type: number, channel: number, payload: Buffer, kept: boolean): void => {
    if (over !== undefined) return
    const sink = channels.get(channel)
    if (!greeted) onHello(type, payload)
    else if (type === FRAME.channel) onChannel(channel, payload)
    else if (announced > 0) throw new Error('another frame before the last CHANNEL')
    else if (kept) log.onEntry(type, payload)
    else if (type === FRAME.stdinCredit && log.has(channel)) log.onStdinCredit(channel, payload.readUInt32LE(0))
    else if (type === FRAME.refused) onRefused(channel, payload)
    else if (sink !== undefined) sink.onFrame(type, payload)
    else if (channel === 0 && type === FRAME.pong) onPong()
    else if (channel === 0 && type === FRAME.parked) onParked()
    else if (channel === 0 && type === FRAME.resumed) onResumed(payload)
    else throw new Error(`a frame of type 0x${type.toString(16)} for channel ${channel}, where no command is`)
  }

  const take = (from: AgentStream): void => {
    const read = createFrameReader(onFrame)
    const isPresent = (): boolean => stream === from.stream
    stream = from.stream
    from.reads((chunk) => {
      if (over !== undefined || !isPresent()) return
      try {
        read(chunk)
      } catch (cause) {
        end(protocolError(cause instanceof Error ? cause.message : String(cause)))
      }
    })
    const died = (cause?: Error): void => {
      if (isPresent() && !parking?.closing)
        end(new BrambleError('sandbox_died', { detail: 'the stream of the agent ended', cause }))
    }
    from.stream.on('error', died)
    from.stream.on('end', () => died())
    from.stream.on('close', () => {
      died()
      if (isPresent() && parking?.closing) parking.parked.resolve()
    })
  }
  take(first)

  const nextChannel = (): number => {
    do lastChannel = lastChannel === CHANNEL_MAX ? 1 : lastChannel + 1
    while (channels.has(lastChannel) || log.has(lastChannel))
    return lastChannel
  }

  const log = createAgentLog({ send, nextChannel, failure: () => over?.error })

  const connectTo = (host: string, port: number, signal: AbortSignal | undefined): Promise<Duplex> => {
    if (over !== undefined) return Promise.reject(over.error)
    const channel = nextChannel()
    const socket = createAgentSocket({ channel, host, port, send, onClosed: () => channels.delete(channel) })
    channels.set(channel, socket)
    if (signal === undefined) return socket.opened
    const abort = (): void => socket.cancel(abortError(signal))
    signal.addEventListener('abort', abort)
    return socket.opened.finally(() => signal.removeEventListener('abort', abort))
  }

  const connect = async ({ host, port, signal }: ConnectRequest): Promise<Duplex> => {
    signal?.throwIfAborted()
    if (!Number.isInteger(port) || port < 1 || port > 65_535 || (host !== undefined && isIP(host) === 0))
      throw new BrambleError('invalid_request', { detail: `${host ?? ''}:${port} is no address and port` })
    if (host !== undefined) return await connectTo(host, port, signal)
    try {
      return await connectTo('127.0.0.1', port, signal)
    } catch (error) {
      if (!(error instanceof BrambleError) || error.code !== 'port_closed') throw error
      return await connectTo('::1', port, signal).catch(() => {
        throw error
      })
    }
  }

  const park = (): Promise<void> => {
    if (over !== undefined) return Promise.reject(over.error)
    if (parking !== undefined)
      return Promise.reject(new BrambleError('conflict', { detail: 'the agent is parked already' }))
    for (const command of transient) command.kill(SIGKILL)
    flush()
    parks++
    const token = randomBytes(PARK_TOKEN_BYTES)
    parking = { token, closing: false, parked: Promise.withResolvers(), resumed: Promise.withResolvers() }
    parking.resumed.promise.catch(() => {})
    const { promise } = parking.parked
    const timer = setTimeout(() => {
      end(new BrambleError('sandbox_failed', { detail: `the agent did not stand still within ${PARK_TIMEOUT_MS} ms` }))
    }, PARK_TIMEOUT_MS)
    stream.write(dataFrame(FRAME.park, 0, token))
    return promise.finally(() => clearTimeout(timer))
  }

  const resume = async (next: Duplex | AgentStream): Promise<void> => {
    const from = streamOf(next)
    if (over !== undefined || !parking?.closing) {
      from.stream.destroy()
      throw over?.error ?? new BrambleError('conflict', { detail: 'the agent is not parked' })
    }
    parking.closing = false
    greeted = false
    const { promise } = parking.resumed
    const timer = setTimeout(() => {
      end(new BrambleError('sandbox_failed', { detail: `the agent did not go on within ${HELLO_TIMEOUT_MS} ms` }))
    }, HELLO_TIMEOUT_MS)
    take(from)
    await promise.finally(() => clearTimeout(timer))
  }

  const close = (): Promise<void> => {
    end(undefined)
    return Promise.resolve()
  }

  const agent: ConnectedAgent = {
    exec: (request) => {
      const channel = nextChannel()
      const frame = encodeExec(channel, request, WINDOW_BYTES)
      const onClosed = (): void => {
        channels.delete(channel)
        transient.delete(agentProcess)
      }
      const agentProcess = createAgentProcess({ channel, send, onClosed })
      if (over !== undefined) agentProcess.fail(over.error)
      else {
        channels.set(channel, agentProcess)
        if (request.transient) transient.add(agentProcess)
        send(frame)
      }
      return agentProcess
    },
    ping: async ({ signal } = {}) => {
      signal?.throwIfAborted()
      if (over !== undefined) throw over.error
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      const abort = (): void => reject(abortError(signal))
      pings.push({ resolve, reject })
      send(dataFrame(FRAME.ping, 0, new Uint8Array(0)))
      signal?.addEventListener('abort', abort)
      try {
        await promise
      } finally {
        signal?.removeEventListener('abort', abort)
      }
    },
    connect,
    log: log.api,
    park,
    resume,
    get parks() {
      return parks
    },
    closed: closed.promise,
    close,
    [Symbol.asyncDispose]: close,
  }
  return { agent, hello: hello.promise, end }
}
