import type { Problem, StreamCommandInput, StreamEvent } from '@bramble/protocol'
import { WebSocket } from 'ws'
import type { LiveNode } from './live-node.ts'

/** The answer of a node that does not take a WebSocket. */
export class Refused extends Error {
  readonly status: number
  readonly code: string
  constructor(status: number, problem: Partial<Problem>) {
    super(`${status} ${problem.code}: ${problem.detail}`)
    this.status = status
    this.code = problem.code ?? ''
  }
}

export interface Closed {
  readonly code: number
  readonly reason: string
}

/** One WebSocket of a node. What came is kept, and may be waited for. */
export interface LiveSocket extends Disposable {
  readonly ws: WebSocket
  /** Text frames, as JSON. */
  readonly messages: readonly Record<string, unknown>[]
  /** Binary frames, joined. */
  bytes(): Buffer
  send(message: StreamCommandInput | Record<string, unknown> | string | Uint8Array): void
  /** Resolves with what `find` finds, as soon as it does; rejects when the connection is over first. */
  until<T>(find: () => T | undefined | false): Promise<T>
  /** The first event of the stream that fits. */
  event<T extends StreamEvent['type']>(
    type: T,
    fits?: (event: Extract<StreamEvent, { type: T }>) => boolean,
  ): Promise<Extract<StreamEvent, { type: T }>>
  /** What a command wrote to its standard output, by the events so far. */
  output(id: string): string
  readonly closed: Promise<Closed>
}

/** `path` follows `/api/v1/instances/<instance>/`. Rejects with `Refused`. */
export const connectLive = async (
  node: Pick<LiveNode, 'url' | 'key'>,
  instance: string,
  path: string,
  { key = node.key }: { key?: string } = {},
): Promise<LiveSocket> => {
  const ws = new WebSocket(`${node.url.replace('http', 'ws')}/api/v1/instances/${instance}/${path}`, {
    headers: key === '' ? {} : { authorization: `Bearer ${key}` },
  })
  const messages: Record<string, unknown>[] = []
  const chunks: Buffer[] = []
  const asking = new Set<() => void>()
  let over: Closed | undefined
  const ask = (): void => {
    for (const one of [...asking]) one()
  }
  ws.on('message', (data: Buffer, binary) => {
    if (binary) chunks.push(data)
    else messages.push(JSON.parse(data.toString()))
    ask()
  })
  const closed = new Promise<Closed>((resolve) => {
    ws.on('close', (code, reason) => {
      over = { code, reason: reason.toString() }
      resolve(over)
      ask()
    })
  })
  await new Promise<void>((resolve, reject) => {
    ws.on('open', resolve).on('error', reject)
    ws.on('unexpected-response', (_request, response) => {
      const body: Buffer[] = []
      response.on('data', (chunk: Buffer) => body.push(chunk))
      response.on('end', () => {
        const text = Buffer.concat(body).toString()
        reject(new Refused(response.statusCode ?? 0, text.startsWith('{') ? JSON.parse(text) : {}))
      })
    })
  })
  const until: LiveSocket['until'] = (find) =>
    new Promise((resolve, reject) => {
      const one = (): void => {
        const found = find()
        if (found !== undefined && found !== false) {
          asking.delete(one)
          resolve(found)
        } else if (over) {
          asking.delete(one)
          reject(new Error(`closed (${over.code} ${over.reason}) after ${JSON.stringify(messages.slice(-5))}`))
        }
      }
      asking.add(one)
      one()
    })
  return {
    ws,
    messages,
    closed,
    until,
    bytes: () => Buffer.concat(chunks),
    send: (message) =>
      ws.send(typeof message === 'string' || message instanceof Uint8Array ? message : JSON.stringify(message)),
    event: (type, fits = () => true) => {
      type Found = Extract<StreamEvent, { type: typeof type }>
      return until(() => messages.find((message) => message.type === type && fits(message as Found)) as Found)
    },
    output: (id) =>
      Buffer.concat(
        messages.flatMap((message) =>
          message.type === 'stdout' && message.id === id
            ? [Buffer.from(String(message.data), message.encoding === 'base64' ? 'base64' : 'utf8')]
            : [],
        ),
      ).toString(),
    [Symbol.dispose]: () => ws.terminate(),
  }
}

/** A stream without what is observed in the sandbox. */
export const connectStream = (
  node: Pick<LiveNode, 'url' | 'key'>,
  instance: string,
  { query = 'processes=false', ...options }: { query?: string; key?: string } = {},
): Promise<LiveSocket> => connectLive(node, instance, `stream?${query}`, options)
