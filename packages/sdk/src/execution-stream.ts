import {
  BrambleError,
  type ExecutionEvent,
  type ExecutionId,
  type ExecutionResult,
  executionEventSchema,
} from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { badResponse } from './failure.ts'
import { ResultStream } from './result-stream.ts'
import type { SseMessage } from './sse.ts'
import { checked, parseJson } from './transport.ts'

/** What a stream of an execution yields: an `error` of the node is thrown instead. */
export type StreamEvent = Exclude<ExecutionEvent, { type: 'error' }>

/** An execution as it runs. Leaving its iteration early cancels it. */
export class ExecutionStream extends ResultStream<StreamEvent, ExecutionResult> {
  #id: ExecutionId | undefined

  constructor(open: (signal: AbortSignal) => AsyncIterable<SseMessage[]>, options: ExecuteOptions = {}) {
    const source = {
      open,
      eventOf: (message: SseMessage) => {
        const event = eventOf(message)
        if (event?.type === 'queued' || event?.type === 'started') this.#id = event.id
        return event
      },
      resultOf: (event: StreamEvent) => (event.type === 'result' ? event.result : undefined),
    }
    super(source, options)
  }

  /** Known from the first event on. */
  get id(): ExecutionId | undefined {
    return this.#id
  }
}

const KNOWN = new Set<string>(['queued', 'started', 'stdout', 'stderr', 'exit', 'result', 'error'])

/** One event, checked. Output is checked by hand: it is most of a stream, and a schema would double its cost. */
export const eventOf = (message: SseMessage): StreamEvent | undefined => {
  const value = parseJson(message.data, 'the stream') as Record<string, unknown> | null
  const type = value?.type
  if (value === null || typeof type !== 'string') throw badResponse('an event of the stream has no type')
  if (type === 'stdout' || type === 'stderr') {
    if (typeof value.data !== 'string') throw badResponse(`an event ${type} has no data`)
    return value as StreamEvent
  }
  // A newer node may have kinds of events that this client does not know.
  if (!KNOWN.has(type)) return undefined
  const event = checked(executionEventSchema, value, `the event ${type}`)
  if (event.type === 'error') throw BrambleError.fromProblem(event.error)
  return event
}
