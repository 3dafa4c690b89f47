import {
  DEFAULT_RESOURCES,
  type ExecutionResult,
  type ExecutionSpecInput,
  executionResultSchema,
  newId,
} from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { ExecutionStream, eventOf } from './execution-stream.ts'
import { CommandFailedError, cancelled } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'
import { endedEarly } from './result-stream.ts'
import { EVENTS_TYPE, JSON_TYPE, readJson, readMessages, type Transport } from './transport.ts'

/** What executing needs: the way to the node, and the client's own default for how long a command may run. */
export interface Executor {
  readonly transport: Transport
  readonly timeoutMs: number | undefined
}

const PATH = '/api/v1/execute'

const withTimeout = (executor: Executor, spec: ExecutionSpecInput): ExecutionSpecInput =>
  executor.timeoutMs === undefined || spec.resources?.timeoutMs !== undefined
    ? spec
    : { ...spec, resources: { ...spec.resources, timeoutMs: executor.timeoutMs } }

export const timeoutOf = (spec: ExecutionSpecInput): number => spec.resources?.timeoutMs ?? DEFAULT_RESOURCES.timeoutMs

/** Whether running it twice shows outside its sandbox: without a network and without a life after it, it cannot. */
export const isRepeatable = (spec: ExecutionSpecInput): boolean =>
  (spec.network ?? 'none') === 'none' &&
  spec.volumes === undefined &&
  ['ephemeral', 'cached'].includes(spec.mode ?? 'ephemeral')

/**
 * Runs a command and resolves with its result, whatever its exit code is.
 *
 * The first try asks for plain JSON without an idempotency key: closing the connection is then what cancels the command.
 * A later try, and any try of a command that may run long, asks for the events instead, under one key: the node goes on
 * when the connection breaks and the next try gets the same result; the first event tells the id by which to cancel.
 */
export const send = async (
  executor: Executor,
  given: ExecutionSpecInput,
  options: ExecuteOptions = {},
): Promise<ExecutionResult> => {
  const { transport } = executor
  const spec = withTimeout(executor, given)
  const timeoutMs = timeoutOf(spec)
  const key = options.idempotencyKey ?? newId('request')
  const asEvents = (tries: number) => tries > 0 || timeoutMs > SDK_LIMITS.longExecutionMs
  const life = lifeline(options.signal)
  let tries = 0
  const readEvents = async (response: Response): Promise<ExecutionResult> => {
    for await (const messages of readMessages(response)) {
      for (const message of messages) {
        const event = eventOf(message)
        if (event?.type === 'queued' || event?.type === 'started') life.learn(event.id)
        if (event?.type === 'result') return event.result
      }
    }
    throw endedEarly()
  }
  const answer = transport.exchange({
    method: 'POST',
    path: PATH,
    body: spec,
    signal: life.signal,
    requestTimeoutMs: options.requestTimeoutMs ?? timeoutMs + SDK_LIMITS.executionGraceMs,
    repeatable: isRepeatable(spec) || asEvents(0) || options.idempotencyKey !== undefined,
    accept: (count) => {
      tries = count
      life.outlives = asEvents(count)
      return asEvents(count) ? EVENTS_TYPE : JSON_TYPE
    },
    idempotencyKey: (count) => (asEvents(count) ? key : options.idempotencyKey),
    read: (response) => (asEvents(tries) ? readEvents(response) : readJson(response, executionResultSchema, PATH)),
  })
  answer
    // Nobody waits for a command that was given up: the node would otherwise let it run to its own end.
    .catch(async () => {
      if (life.id !== undefined) await transport.none({ method: 'DELETE', path: `/api/v1/executions/${life.id}` })
    })
    .catch(() => undefined)
    .finally(life.release)
  const result = await Promise.race([answer, life.aborted])
  if (options.check === true && result.status !== 'succeeded') throw new CommandFailedError(result)
  return result
}

/**
 * The caller's signal, as the request sees it. The caller hears of an abort at once. A request whose command would go on
 * without its connection is held a moment longer where it must, until it has told the id by which to cancel the command.
 */
const lifeline = (outer: AbortSignal | undefined) => {
  const controller = new AbortController()
  const aborted = Promise.withResolvers<never>()
  aborted.promise.catch(() => undefined)
  const end = () => controller.abort(outer?.reason)
  let timer: ReturnType<typeof setTimeout> | undefined
  const onAbort = () => {
    aborted.reject(cancelled(outer?.reason))
    if (!life.outlives || life.id !== undefined) end()
    else timer = setTimeout(end, SDK_LIMITS.cancelGraceMs)
  }
  const life = {
    signal: controller.signal,
    aborted: aborted.promise,
    /** Whether the command of the present try goes on when its connection ends. */
    outlives: false,
    id: undefined as string | undefined,
    learn: (id: string) => {
      life.id = id
      if (outer?.aborted) end()
    },
    release: () => {
      clearTimeout(timer)
      outer?.removeEventListener('abort', onAbort)
    },
  }
  if (outer?.aborted) onAbort()
  else outer?.addEventListener('abort', onAbort, { once: true })
  return life
}

/**
 * Runs a command and gives its events as they happen. Nothing is sent before it is iterated or its result awaited. There
 * is no idempotency key: whoever leaves the stream cancels the command.
 */
export const streamOf = (
  executor: Executor,
  given: ExecutionSpecInput,
  options: ExecuteOptions = {},
): ExecutionStream => {
  const spec = withTimeout(executor, given)
  const requestTimeoutMs = options.requestTimeoutMs ?? timeoutOf(spec) + SDK_LIMITS.executionGraceMs
  const repeatable = isRepeatable(spec)
  return new ExecutionStream(
    (signal) =>
      executor.transport.stream({ method: 'POST', path: PATH, body: spec, signal, requestTimeoutMs, repeatable }),
    options,
  )
}
