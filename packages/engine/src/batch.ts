import {
  type BatchId,
  type BatchItemResult,
  type BatchRequest,
  type BatchResponse,
  BrambleError,
  newId,
  toBrambleError,
} from '@bramble/protocol'
import { createChannel } from './channel.ts'
import type { Engine, EngineEvent, ExecuteContext, Execution } from './engine.ts'

/** What a batch says: the events of its items where it is streamed, and the end of each item. */
export type BatchEvent = { readonly index: number; readonly event: EngineEvent } | BatchItemResult

const HIGH_WATER_BYTES = 256 * 1024

/**
 * Runs the items of a batch, at most `maxConcurrency` at once, in their order; each ends with a result or an error of
 * its own. In a race the first to succeed ends it: the others are cancelled, and those that had not begun end with the
 * error `cancelled`. With `context.stream`, the events of the items come too, at the reader's pace. Leaving the loop
 * early, or aborting `context.signal`, cancels what runs; nothing runs any more when the loop is left.
 */
export async function* runBatch(
  engine: Pick<Engine, 'execute'>,
  { items, strategy, maxConcurrency }: BatchRequest,
  context: ExecuteContext,
): AsyncGenerator<BatchEvent> {
  const channel = createChannel<BatchEvent>({ highWaterBytes: HIGH_WATER_BYTES })
  const over = new AbortController()
  const signal = context.signal ? AbortSignal.any([context.signal, over.signal]) : over.signal
  let next = 0

  const forward = async (index: number, execution: Execution): Promise<void> => {
    for await (const event of execution) {
      if (event.type === 'result' || event.type === 'error') return
      const bytes = event.type === 'stdout' || event.type === 'stderr' ? event.data.length : 0
      await channel.push({ index, event }, bytes)
    }
  }

  const runItem = async (index: number, spec: BatchRequest['items'][number]): Promise<BatchItemResult> => {
    try {
      if (signal.aborted) throw new BrambleError('cancelled', { detail: 'the batch ended before this item began' })
      const execution = engine.execute(spec, { ...context, signal })
      if (context.stream) await forward(index, execution)
      const result = await execution.result
      if (strategy === 'race' && result.status === 'succeeded') over.abort()
      return { index, result }
    } catch (error) {
      return { index, error: toBrambleError(error).toProblem() }
    }
  }

  const worker = async (): Promise<void> => {
    while (next < items.length) {
      const index = next++
      const spec = items[index]
      if (spec) channel.push(await runItem(index, spec))
    }
  }
  const workers = Promise.all(Array.from({ length: Math.min(maxConcurrency, items.length) }, worker)).finally(() =>
    channel.end(),
  )
  try {
    yield* channel
  } finally {
    over.abort()
    await workers
  }
}

/** A batch as one answer: every item in order, and the winner of a race that had one. */
export const collectBatch = async (
  engine: Pick<Engine, 'execute'>,
  request: BatchRequest,
  context: ExecuteContext,
  id: BatchId = newId('batch'),
): Promise<BatchResponse> => {
  const items: BatchItemResult[] = []
  let winner: number | undefined
  for await (const event of runBatch(engine, request, { ...context, stream: false })) {
    if ('event' in event) continue
    items[event.index] = event
    if ('result' in event && event.result.status === 'succeeded') winner ??= event.index
  }
  return {
    id,
    strategy: request.strategy,
    ...(request.strategy === 'race' && winner !== undefined && { winner }),
    items,
  }
}
