import type { Engine, ExecuteContext } from '@bramble/engine'
import { type Answer, type Call, type Caller, json } from '@bramble/http'
import {
  BrambleError,
  type ExecutionSpec,
  executionEventSchema,
  executionIdSchema,
  executionParamsSchema,
  executionRecordSchema,
  executionResultSchema,
  executionSpecSchema,
  executionsQuerySchema,
  forkRequestSchema,
  logsQuerySchema,
  pageSchema,
} from '@bramble/protocol'
import { pumpEvents } from '../event-pump.ts'
import { route } from '../route.ts'

/** On whose behalf the engine works, with what bounds. */
export const executeContext = (caller: Caller, signal: AbortSignal, stream: boolean): ExecuteContext => ({
  tenant: caller.tenant,
  keyId: caller.keyId,
  quota: caller.quota,
  signal,
  stream,
})

const tag = 'executions'

const execute = route({
  method: 'POST',
  path: '/api/v1/execute',
  tag,
  summary: 'Run a command in a fresh sandbox',
  description:
    'Answers when the command ends; a command that exits non-zero is a result, not an error. With `Accept: text/event-stream` events come as they happen. Closing the connection cancels the command, unless an `Idempotency-Key` was given.',
  scope: 'execute',
  body: executionSpecSchema,
  answer: { status: 200, description: 'The result', schema: executionResultSchema },
  events: executionEventSchema,
  errors: ['image_not_found', 'unsupported', 'quota_exceeded', 'queue_full', 'sandbox_failed', 'sandbox_died'],
  idempotent: true,
  handle: (call, { engine }) => runExecution(call, engine, call.body),
  replay: (first, call, { engine }) => replayExecution(first.note, call, engine),
})

const fork = route({
  method: 'POST',
  path: '/api/v1/fork',
  tag,
  summary: 'Run a command in a branch of an instance, a snapshot, or what an execution left',
  description:
    'As `execute` with the mode `branched`: it begins with the files of `parent` and, where that works, its processes; `parent` goes on undisturbed. Its files at the end are left as a snapshot (`snapshotId`), for a day, unless it is given a name or another time to live.',
  scope: 'execute',
  body: forkRequestSchema,
  answer: { status: 200, description: 'The result', schema: executionResultSchema },
  events: executionEventSchema,
  errors: [
    ...(['not_found', 'conflict', 'unsupported', 'checkpoint_refused', 'snapshot_incompatible'] as const),
    ...(['quota_exceeded', 'queue_full', 'sandbox_failed', 'sandbox_died'] as const),
  ],
  idempotent: true,
  handle: (call, { engine }) => runExecution(call, engine, { ...call.body, mode: 'branched' }),
  replay: (first, call, { engine }) => replayExecution(first.note, call, engine),
})

type ExecutionCall = Call<unknown, unknown, unknown>

const runExecution = async (call: ExecutionCall, engine: Engine, spec: ExecutionSpec): Promise<Answer> => {
  const execution = engine.execute(spec, executeContext(call.caller, call.signal, call.streaming))
  call.note(execution.id)
  if (!call.streaming && execution.json) return { status: 200, text: execution.json() }
  if (!call.streaming) return json(200, await execution.result)
  // Its rejection is told as the stream's last event.
  execution.result.catch(() => {})
  const end = await pumpEvents(execution, call.openStream(), {
    requestId: call.request.id,
    outliveClient: call.request.headers['idempotency-key'] !== undefined,
  })
  if (!end) throw new BrambleError('internal', { detail: 'the events of the execution ended before its result' })
  return 'error' in end ? json(end.error.status, end.error) : json(200, end.result)
}

const replayExecution = async (note: string | undefined, call: ExecutionCall, engine: Engine): Promise<void> => {
  const id = executionIdSchema.parse(note)
  const events = engine.executions.logs(id, call.caller.tenant, { signal: call.signal })
  await pumpEvents(events, call.openStream(), { requestId: call.request.id })
}

const list = route({
  method: 'GET',
  path: '/api/v1/executions',
  tag,
  summary: 'List executions, newest first',
  scope: 'read',
  query: executionsQuerySchema,
  answer: { status: 200, description: 'A page', schema: pageSchema(executionRecordSchema) },
  errors: [],
  handle: async (call, { engine }) =>
    json(200, await engine.executions.list({ ...call.query, tenant: call.caller.tenant })),
})

const get = route({
  method: 'GET',
  path: '/api/v1/executions/:id',
  tag,
  summary: 'Show an execution, with its result once there is one',
  scope: 'read',
  params: executionParamsSchema,
  answer: { status: 200, description: 'The execution', schema: executionRecordSchema },
  errors: ['not_found'],
  handle: async (call, { engine }) => json(200, await engine.executions.get(call.params.id, call.caller.tenant)),
})

const cancel = route({
  method: 'DELETE',
  path: '/api/v1/executions/:id',
  tag,
  summary: 'Cancel an execution; one that has ended is left as it is',
  scope: 'execute',
  params: executionParamsSchema,
  answer: { status: 200, description: 'The execution, ended', schema: executionRecordSchema },
  errors: ['not_found'],
  handle: async (call, { engine }) => json(200, await engine.executions.cancel(call.params.id, call.caller.tenant)),
})

const logs = route({
  method: 'GET',
  path: '/api/v1/executions/:id/logs',
  tag,
  summary: 'Stream the events of an execution: what is kept, then what comes',
  description:
    'Until the execution ends, or with `?follow=false` until what is kept by now is told; then `result` or `error` comes only if it has ended.',
  scope: 'read',
  params: executionParamsSchema,
  query: logsQuerySchema,
  answer: {
    status: 200,
    description: 'Events until the end',
    mediaType: 'text/event-stream',
    schema: executionEventSchema,
  },
  errors: ['not_found'],
  handle: async (call, { engine }) => {
    const { id } = call.params
    // Throws `not_found` while an answer can still say so.
    await engine.executions.get(id, call.caller.tenant)
    const { follow } = call.query
    const events = engine.executions.logs(id, call.caller.tenant, { signal: call.signal, follow })
    await pumpEvents(events, call.openStream(), { requestId: call.request.id })
    return { status: 200 }
  },
})

export const executionRoutes = [execute, fork, list, get, cancel, logs]
