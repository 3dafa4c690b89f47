import {
  type BatchEnd,
  batchEndSchema,
  batchEventSchema,
  batchRequestSchema,
  batchResponseSchema,
} from '@bramble/protocol'
import { z } from 'zod'
import { json, route } from '../route.ts'
import { runBatch } from '../run-batch.ts'

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
  handle: async (call, context) => {
    const stream = call.streaming ? call.openStream() : undefined
    const response = await runBatch(context, {
      request: call.body,
      caller: call.caller,
      signal: call.signal,
      requestId: call.request.id,
      outliveClient: call.request.headers['idempotency-key'] !== undefined,
      stream,
    })
    if (stream) await stream.send('batch', JSON.stringify(endOf(response)))
    return json(200, response)
  },
  replay: async (first, call) => {
    const stream = call.openStream()
    const { text = '{}' } = await first.answer()
    const response = batchResponseSchema.parse(JSON.parse(text))
    for (const item of response.items) {
      const event = 'result' in item ? { type: 'result', result: item.result } : { type: 'error', error: item.error }
      await stream.send(event.type, JSON.stringify({ index: item.index, event }))
    }
    await stream.send('batch', JSON.stringify(endOf(response)))
  },
})

const endOf = ({ items, ...rest }: z.output<typeof batchResponseSchema>): BatchEnd => {
  const succeeded = items.filter((item) => 'result' in item && item.result.status === 'succeeded').length
  return { ...rest, succeeded, failed: items.length - succeeded }
}

export const batchRoutes = [batch]
