import { type BatchEvent, runBatch } from '@bramble/engine'
import { type EventStream, json } from '@bramble/http'
import {
  type BatchEnd,
  type BatchItemResult,
  type BatchRequest,
  type BatchResponse,
  BrambleError,
  batchEndSchema,
  batchEventSchema,
  batchRequestSchema,
  batchResponseSchema,
  type ExecutionResult,
  newId,
} from '@bramble/protocol'
import { z } from 'zod'
import { type EventSender, eventSender } from '../event-pump.ts'
import { route } from '../route.ts'
import { executeContext } from './executions.ts'

const batch = route({
  method: 'POST',
  path: '/api/v1/batch',
  tag: 'executions',
  summary: 'Run many commands, each in its own fresh sandbox',
  description:
    '`all` and `map` answer with every result in order; `race` with the first to succeed, the others cancelled. With `Accept: text/event-stream` the events of the items come as they happen, each with the index of its item, and at last one event `batch`.',
  scope: 'execute',
  body: batchRequestSchema,
  answer: { status: 200, description: 'A result or an error for each item', schema: batchResponseSchema },
  events: z.union([batchEventSchema, batchEndSchema]),
  errors: [],
  idempotent: true,
  handle: async (call, { engine, limits }) => {
    const outliveClient = call.request.headers['idempotency-key'] !== undefined
    const stream = call.streaming ? call.openStream() : undefined
    const sender = stream && batchSender(stream, call.request.id)
    // What was streamed has gone by: it is kept only for whoever may repeat the request.
    const keep = resultKeeper(stream && !outliveClient ? 0 : limits.maxBatchOutputBytes, stream !== undefined)
    const items: BatchItemResult[] = []
    let winner: number | undefined
    for await (const event of runBatch(engine, call.body, executeContext(call.caller, call.signal, call.streaming))) {
      if (stream?.closed && !outliveClient)
        throw new BrambleError('cancelled', { detail: 'the client closed the stream' })
      await sender?.(event)
      if ('event' in event) continue
      if ('result' in event && event.result.status === 'succeeded') winner ??= event.index
      items[event.index] = keep(event)
    }
    const response = responseOf(call.body, items, winner)
    await stream?.send('batch', JSON.stringify(endOf(response)))
    return json(200, response)
  },
  replay: async (first, call) => {
    const stream = call.openStream()
    const { text = '{}' } = await first.answer()
    const response = batchResponseSchema.parse(JSON.parse(text))
    const send = batchSender(stream, call.request.id)
    for (const item of response.items) await send(item)
    await stream.send('batch', JSON.stringify(endOf(response)))
  },
})

const responseOf = (
  { strategy }: BatchRequest,
  items: BatchItemResult[],
  winner: number | undefined,
): BatchResponse => ({
  id: newId('batch'),
  strategy,
  ...(strategy === 'race' && winner !== undefined && { winner }),
  items,
})

const endOf = ({ items, ...rest }: BatchResponse): BatchEnd => {
  const succeeded = items.filter((item) => 'result' in item && item.result.status === 'succeeded').length
  return { ...rest, succeeded, failed: items.length - succeeded }
}

/** Writes what a batch says: the events of an item, and its end as one. */
const batchSender = (stream: EventStream, requestId: string): ((event: BatchEvent) => Promise<void>) => {
  const senders = new Map<number, EventSender>()
  return async (event) => {
    const { index } = event
    const send = senders.get(index) ?? eventSender(stream, [`{"index":${index},"event":`, '}'])
    senders.set(index, send)
    if ('event' in event) return send(event.event)
    senders.delete(index)
    if ('result' in event) await send({ type: 'result', result: event.result })
    else await send({ type: 'error', error: { ...event.error, requestId } })
  }
}

/**
 * Holds the outputs of all results together to `maxBytes`. Past it an item is an error, or where its output was streamed
 * already, a result without output.
 */
const resultKeeper = (maxBytes: number, streamed: boolean): ((item: BatchItemResult) => BatchItemResult) => {
  let leftBytes = maxBytes
  return (item) => {
    if (!('result' in item)) return item
    leftBytes -= outputBytesOf(item.result)
    if (leftBytes >= 0) return item
    const { index, result } = item
    if (streamed) return { index, result: { ...result, stdout: '', stderr: '', outputs: {}, truncated: true } }
    const detail = `the outputs of this batch are more than ${maxBytes} bytes together; ask for events instead`
    return { index, error: new BrambleError('body_too_large', { detail }).toProblem() }
  }
}

const outputBytesOf = ({ stdout, stderr, outputs }: ExecutionResult): number => {
  let bytes = stdout.length + stderr.length
  for (const output of Object.values(outputs)) if ('content' in output) bytes += output.content.length
  return bytes
}

export const batchRoutes = [batch]
