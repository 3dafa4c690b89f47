import type { Problem, StreamCommandInput, StreamEvent } from '@bramble/protocol'
import { streamEventSchema } from '@bramble/protocol'
import { WebSocket } from 'ws'
import type { RealNode } from './real-node.ts'

export interface ConnectOptions {
  /** `''`: none. Default the node's. */
  readonly key?: string
  readonly headers?: Record<string, string>
  /** Another gateway over the same engine. */
  readonly url?: string
}

export type Frame = { readonly text: string } | { readonly bytes: Buffer }

/** One WebSocket of a test: what came is kept, and may be waited for. */
export interface LiveClient extends Disposable {
  readonly ws: WebSocket
  readonly frames: readonly Frame[]
  /** Resolves with what `find` finds in the frames so far, as soon as it does; rejects when the connection is over first. */
  until<T>(find: (frames: readonly Frame[]) => T | undefined | false): Promise<T>
  readonly closed: Promise<{ code: number; reason: string }>
}

/** The answer of a node that does not take the connection. */
export class Refused extends Error {
  readonly status: number
  readonly problem: Problem
  constructor(status: number, problem: Problem) {
    super(`${status} ${problem.code}: ${problem.detail}`)
    this.status = status
    this.problem = problem
  }
}

export const connectLive = async (
  node: Pick<RealNode, 'key' | 'gateway'>,
  path: string,
  options: ConnectOptions = {},
): Promise<LiveClient> => {
  const { key = node.key, headers, url = node.gateway.url } = options
  const ws = new WebSocket(url.replace('http', 'ws') + path, {
    headers: { ...(key !== '' && { authorization: `Bearer ${key}` }), ...headers },
  })
  const frames: Frame[] = []
  const asking = new Set<() => void>()
  let over = false
  const ask = (): void => {
    for (const one of [...asking]) one()
  }
  ws.on('message', (data: Buffer, binary) => {
    frames.push(binary ? { bytes: data } : { text: data.toString() })
    ask()
  })
  const closed = new Promise<{ code: number; reason: string }>((resolve) => {
    ws.on('close', (code, reason) => {
      over = true
      resolve({ code, reason: reason.toString() })
      ask()
    })
  })
  await new Promise<void>((resolve, reject) => {
    ws.on('open', resolve).on('error', reject)
    ws.on('unexpected-response', (_request, response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        reject(new Refused(response.statusCode ?? 0, JSON.parse(text === '' ? '{}' : text)))
      })
    })
  })
  return {
    ws,
    frames,
    closed,
    until: (find) =>
      new Promise((resolve, reject) => {
        const one = (): void => {
          const found = find(frames)
          if (found !== undefined && found !== false) {
            asking.delete(one)
            resolve(found)
          } else if (over) {
            asking.delete(one)
            reject(new Error(`closed after ${JSON.stringify(frames.slice(-5))}`))
          }
        }
        asking.add(one)
        one()
      }),
    [Symbol.dispose]: () => ws.terminate(),
  }
}

/** One connection of the streaming API. */
export interface StreamClient extends LiveClient {
  send(message: StreamCommandInput | string | Buffer): void
  readonly events: readonly StreamEvent[]
  /** The first event that fits. */
  event<T extends StreamEvent['type']>(
    type: T,
    fits?: (event: Extract<StreamEvent, { type: T }>) => boolean,
  ): Promise<Extract<StreamEvent, { type: T }>>
  /** The bytes that a command's output events carry. */
  output(id: string, type?: 'stdout' | 'stderr'): Buffer
}

export const connectStream = async (
  node: RealNode,
  instance: string,
  options: ConnectOptions & { query?: string } = {},
): Promise<StreamClient> => {
  const query = options.query ?? 'processes=false'
  const client = await connectLive(node, `/api/v1/containers/${instance}/stream?${query}`, options)
  const parsed: StreamEvent[] = []
  const events = (): readonly StreamEvent[] => {
    for (const frame of client.frames.slice(parsed.length)) {
      if ('bytes' in frame) throw new Error('a binary frame')
      parsed.push(streamEventSchema.parse(JSON.parse(frame.text)))
    }
    return parsed
  }
  const stream: StreamClient = {
    ws: client.ws,
    frames: client.frames,
    closed: client.closed,
    until: client.until,
    send: (message) =>
      client.ws.send(typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message)),
    get events() {
      return events()
    },
    event: (type, fits = () => true) =>
      client.until(() => {
        for (const event of events())
          if (event.type === type && fits(event as Extract<StreamEvent, { type: typeof type }>))
            return event as Extract<StreamEvent, { type: typeof type }>
        return undefined
      }),
    output: (id, type = 'stdout') =>
      Buffer.concat(
        events().flatMap((event) =>
          event.type === type && event.id === id ? [Buffer.from(event.data, event.encoding ?? 'utf8')] : [],
        ),
      ),
    [Symbol.dispose]: () => client[Symbol.dispose](),
  }
  return stream
}

/** Connects to a stream that tells of processes and ports, and waits until it does. */
export const connectObserving = async (node: RealNode, instance: string): Promise<StreamClient> => {
  const stream = await connectStream(node, instance, { query: 'processes=true' })
  // Whatever ran before it looked for the first time is no news.
  const id = `canary-${crypto.randomUUID()}`
  stream.send({ type: 'exec', id, command: 'while sleep 0.3; do :; done' })
  await stream.event('process_event')
  stream.send({ type: 'signal', id, signal: 'KILL' })
  await stream.event('exit', (event) => event.id === id)
  return stream
}

/** The bytes of binary frames, joined. */
export const bytesOf = ({ frames }: Pick<LiveClient, 'frames'>): Buffer =>
  Buffer.concat(frames.flatMap((frame) => ('bytes' in frame ? [frame.bytes] : [])))

/** The text frames, as JSON. */
export const messagesOf = ({ frames }: Pick<LiveClient, 'frames'>): Record<string, unknown>[] =>
  frames.flatMap((frame) => ('text' in frame ? [JSON.parse(frame.text) as Record<string, unknown>] : []))
