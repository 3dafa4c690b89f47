import { z } from 'zod'
import { problemSchema } from './errors.ts'
import { executionIdSchema } from './ids.ts'
import { encodingSchema, executionResultSchema } from './result.ts'

const chunk = { data: z.string(), encoding: encodingSchema.optional() }

/**
 * What a streamed execution says, in order: `queued` and `started` once each, any number of `stdout` and `stderr`
 * (each chunk is text, or base64 where `encoding` says so; a character is never split), `exit`, and at last either
 * `result` or `error`. Nothing follows those two.
 */
export const executionEventSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('queued'), id: executionIdSchema }),
  z.object({ type: z.literal('started'), id: executionIdSchema, runtime: z.string() }),
  z.object({ type: z.literal('stdout'), ...chunk }),
  z.object({ type: z.literal('stderr'), ...chunk }),
  z.object({ type: z.literal('exit'), code: z.number().int().nullable(), signal: z.string().optional() }),
  z.object({ type: z.literal('result'), result: executionResultSchema }),
  z.object({ type: z.literal('error'), error: problemSchema }),
])
export type ExecutionEvent = z.infer<typeof executionEventSchema>
