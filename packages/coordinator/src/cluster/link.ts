import { BrambleError, type CoordinatorFrame, type JobEvent, toBrambleError, type Welcome } from '@bramble/protocol'
import { WebSocket } from 'ws'
import type { Network } from '../network/network.ts'
import { type Call, networkBy } from './calls.ts'
import { type Channel, MAX_PAYLOAD_BYTES, openChannel } from './channel.ts'
import { answerChallenge, LINK_PATH } from './handshake.ts'
import type { Answered, Asked } from './link-messages.ts'

export interface LinkOptions {
  /** Of the coordinator that writes, as it is in its lease. */
  readonly url: string
  /** The cluster's: all its coordinators have it. */
  readonly secret: Uint8Array
  /** Of this coordinator, for the other's log. */
  readonly name: string
  /** For the connection and the handshake. */
  readonly timeoutMs: number
  /** Called once, when the link is over: the network then rejects everything with `not_leader`. */
  readonly onClosed: () => void
}

/** Events of one stream that may be on their way. */
const EVENT_CREDIT = 64

interface Waiting {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
  readonly item?: (event: JobEvent) => void
}

const withoutTrailing = (args: readonly unknown[]): readonly unknown[] => {
  let length = args.length
  while (length > 0 && args[length - 1] === undefined) length--
  return length === args.length ? args : args.slice(0, length)
}

const lost = (): BrambleError =>
  new BrambleError('not_leader', { detail: 'the coordinator that writes was lost', retryAfterMs: 500 })

/**
 * The network by way of the coordinator that writes: one WebSocket, for as long as it holds. Rejects with `not_leader` where that
 * coordinator does not write, and with `connection_failed` where it is not reached.
 */
export const openLink = async (options: LinkOptions): Promise<Network> => {
  const channel = await connect(options)
  const waiting = new Map<number, Waiting>()
  const sessions = new Map<number, (frame: CoordinatorFrame) => void>()
  let last = 0
  let over = false

  channel.begin({
    message: (answered) => {
      if (answered.t === 'deliver') return sessions.get(answered.session)?.(answered.frame)
      const call = waiting.get(answered.id)
      if (answered.t === 'item') return call?.item?.(answered.event)
      waiting.delete(answered.id)
      if (answered.t === 'value') call?.resolve(answered.value)
      else call?.reject(BrambleError.fromProblem(answered.error))
    },
    closed: () => {
      over = true
      for (const { reject } of waiting.values()) reject(lost())
      waiting.clear()
      sessions.clear()
      options.onClosed()
    },
  })

  const ask = (question: (id: number) => Asked, options: { signal?: AbortSignal; item?: Waiting['item'] } = {}) => {
    const { signal, item } = options
    if (over) return Promise.reject(lost())
    if (signal?.aborted) return Promise.reject(signal.reason)
    const id = ++last
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    waiting.set(id, { resolve, reject, ...(item && { item }) })
    channel.send(question(id))
    if (!signal) return promise
    const abort = (): void => {
      if (!waiting.delete(id)) return
      channel.send({ t: 'abort', id })
      reject(signal.reason)
    }
    signal.addEventListener('abort', abort, { once: true })
    return promise.finally(() => signal.removeEventListener('abort', abort))
  }
  const call: Call = <T>(method: Parameters<Call>[0], args: readonly unknown[], signal?: AbortSignal) =>
    ask((id) => ({ t: 'call', id, method, args: withoutTrailing(args) }), signal && { signal }) as Promise<T>

  async function* events(
    id: Parameters<Network['jobs']['events']>[0],
    tenant: string,
    { since, signal }: { since?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<JobEvent> {
    const queue: JobEvent[] = []
    const ended = new AbortController()
    let wake = (): void => {}
    let outcome: { readonly error?: unknown } | undefined
    let callId = 0
    const args = [id, tenant, ...(since === undefined ? [] : [{ since }])]
    const item = (event: JobEvent): void => {
      queue.push(event)
      wake()
    }
    const question = (number: number): Asked => {
      callId = number
      return { t: 'events', id: number, args, credit: EVENT_CREDIT }
    }
    ask(question, { signal: signal ? AbortSignal.any([signal, ended.signal]) : ended.signal, item }).then(
      () => {
        outcome = {}
        wake()
      },
      (error: unknown) => {
        outcome = signal?.aborted ? {} : { error }
        wake()
      },
    )
    try {
      for (let taken = 0; ; ) {
        const event = queue.shift()
        if (event !== undefined) {
          yield event
          if (++taken % (EVENT_CREDIT / 2) === 0) channel.send({ t: 'credit', id: callId, more: EVENT_CREDIT / 2 })
        } else if (outcome) {
          if ('error' in outcome) throw outcome.error
          return
        } else
          await new Promise<void>((resolve) => {
            wake = resolve
          })
      }
    } finally {
      ended.abort()
    }
  }

  const close = async (): Promise<void> => channel.close()
  return networkBy(call, {
    events,
    close,
    async session(command, deliver) {
      const session = ++last
      sessions.set(session, deliver)
      try {
        const welcome = (await ask((id) => ({ t: 'open', id, session, command }))) as Welcome
        return {
          welcome,
          frame: async (frame) => {
            await ask((id) => ({ t: 'frame', id, session, frame }))
          },
          close: (how) => {
            if (sessions.delete(session)) channel.send({ t: 'close', session, ...how })
          },
        }
      } catch (error) {
        sessions.delete(session)
        throw error
      }
    },
  })
}

interface Connected extends Channel<Asked> {
  begin(handlers: { message: (message: Answered) => void; closed: () => void }): void
}

/** As far as both have shown who they are. */
const connect = async ({ url, secret, name, timeoutMs }: LinkOptions): Promise<Connected> => {
  const address = new URL(`.${LINK_PATH}`, url.endsWith('/') ? url : `${url}/`)
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:'
  const ws = new WebSocket(address, {
    perMessageDeflate: false,
    maxPayload: MAX_PAYLOAD_BYTES,
    handshakeTimeout: timeoutMs,
  })
  const { promise, resolve, reject } = Promise.withResolvers<Connected>()
  const fail = (error: unknown): void => {
    reject(error)
    ws.terminate()
  }
  const away = (detail: string, cause?: unknown): BrambleError =>
    new BrambleError('connection_failed', { detail: `the coordinator at ${url}: ${detail}`, cause })
  const timer = setTimeout(() => fail(away(`no answer in ${timeoutMs} ms`)), timeoutMs)
  let answer: ReturnType<typeof answerChallenge> | undefined
  const onMessage = (data: unknown): void => {
    try {
      if (!answer) {
        answer = answerChallenge(secret, name, String(data))
        ws.send(answer.text)
        return
      }
      const key = answer.accept(String(data))
      ws.off('message', onMessage)
      const handlers: { message?: (message: Answered) => void; closed?: () => void } = {}
      const channel = openChannel<Answered, Asked>({
        ...{ ws, key, side: 'asker' },
        // It says nothing before it is asked.
        message: (message) => handlers.message?.(message),
        closed: () => handlers.closed?.(),
      })
      resolve({
        ...channel,
        begin: (begun) => {
          Object.assign(handlers, begun)
          if (ws.readyState === ws.CLOSED) begun.closed()
        },
      })
    } catch (error) {
      fail(toBrambleError(error))
    }
  }
  ws.on('message', onMessage)
  ws.on('error', (error) => fail(away(error.message, error)))
  ws.once('close', () => reject(away('it closed the connection')))
  ws.once('unexpected-response', (_request, response) => {
    // `refuseUpgrade` has the code of the error as the reason.
    const refused = response.statusMessage === 'not_leader'
    fail(refused ? lost() : away(`it answered ${response.statusCode}`))
  })
  try {
    return await promise
  } finally {
    clearTimeout(timer)
  }
}
