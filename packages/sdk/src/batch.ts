import { type BatchRequestInput, type BatchResponse, batchResponseSchema } from '@bramble/protocol'
import type { CallOptions } from './call.ts'
import { isRepeatable, timeoutOf } from './execute.ts'
import { SDK_LIMITS } from './limits.ts'
import { type Runnable, specOf } from './many.ts'
import type { Transport } from './transport.ts'

export interface BatchOptions extends CallOptions {
  /** `all` and `map`: every result, in order. `race`: the first to succeed; the others are cancelled. Default `all`. */
  readonly strategy?: BatchRequestInput['strategy']
  /** Executions of this batch under way at once on the node. Default 8. */
  readonly maxConcurrency?: number | undefined
}

/** Many executions as one request: one admission, one answer. `map` and `race` of the client have no limit of items. */
export const batch = (
  transport: Transport,
  runnables: readonly Runnable[],
  options: BatchOptions = {},
): Promise<BatchResponse> => {
  const { strategy, maxConcurrency, ...call } = options
  const items = runnables.map(specOf)
  const longestMs = Math.max(0, ...items.map(timeoutOf))
  const rounds = strategy === 'race' ? 1 : Math.ceil(items.length / (maxConcurrency ?? SDK_LIMITS.mapConcurrency))
  return transport.json(
    {
      method: 'POST',
      path: '/api/v1/batch',
      body: { items, strategy, maxConcurrency },
      repeatable: items.every(isRepeatable),
      requestTimeoutMs: longestMs * rounds + SDK_LIMITS.executionGraceMs,
      ...call,
    },
    batchResponseSchema,
  )
}
