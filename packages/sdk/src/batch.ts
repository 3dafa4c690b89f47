import {
  type BatchItemResult,
  type BatchRequestInput,
  type BatchResponse,
  BrambleError,
  batchEndSchema,
  batchEventSchema,
  batchResponseSchema,
  problemSchema,
} from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { isRepeatable, timeoutOf } from './execute.ts'
import { SDK_LIMITS } from './limits.ts'
import { type Runnable, specOf } from './many.ts'
import { endedEarly } from './result-stream.ts'
import { checked, parseJson, type Request, type Transport } from './transport.ts'

export interface BatchOptions extends CallOptions {
  /** `all` and `map`: every result, in order. `race`: the first to succeed; the others are cancelled. Default `all`. */
  readonly strategy?: BatchRequestInput['strategy']
  /** Executions of this batch under way at once on the node. Default 8. */
  readonly maxConcurrency?: number | undefined
}

const PATH = '/api/v1/batch'

/**
 * Many executions as one request. Closing the connection cancels them all. `map` and `race` of the client do the same
 * without a limit of items, and with retries of each.
 */
export const batch = async (
  transport: Transport,
  runnables: readonly Runnable[],
  options: BatchOptions = {},
): Promise<BatchResponse> => {
  const { strategy, maxConcurrency, ...call } = options
  const items = runnables.map(specOf)
  const longestMs = Math.max(0, ...items.map(timeoutOf))
  const rounds = strategy === 'race' ? 1 : Math.ceil(items.length / (maxConcurrency ?? SDK_LIMITS.mapConcurrency))
  const request: Request = {
    method: 'POST',
    path: PATH,
    body: { items, strategy, maxConcurrency },
    repeatable: items.every(isRepeatable),
    requestTimeoutMs: longestMs * rounds + SDK_LIMITS.executionGraceMs,
    ...call,
  }
  const isLong = longestMs * rounds > SDK_LIMITS.longExecutionMs
  return isLong ? byEvents(transport, request) : transport.json(request, batchResponseSchema)
}

/** As a stream, whose heartbeats keep the connection alive. Output that goes by is dropped: the results have what is kept. */
const byEvents = async (transport: Transport, request: Request): Promise<BatchResponse> => {
  const items: BatchItemResult[] = []
  for await (const messages of transport.stream(request)) {
    for (const { event: name, data } of messages) {
      if (name === 'batch') {
        const { succeeded: _succeeded, failed: _failed, ...end } = checked(batchEndSchema, parseJson(data, PATH), PATH)
        return { ...end, items: items.sort((a, b) => a.index - b.index) }
      }
      if (name !== 'result' && name !== 'error') continue
      const value = parseJson(data, PATH)
      // An error without an item is of the batch itself.
      if (name === 'error' && (value as { index?: unknown } | null)?.index === undefined)
        throw BrambleError.fromProblem(checked(problemSchema, (value as { error?: unknown } | null)?.error, PATH))
      const { index, event } = checked(batchEventSchema, value, PATH)
      if (event.type === 'result') items.push({ index, result: event.result })
      else if (event.type === 'error') items.push({ index, error: event.error })
    }
  }
  throw endedEarly()
}
