import {
  BrambleError,
  DEFAULT_RESOURCES,
  type ExecutionResult,
  type ExecutionSpecInput,
  executionResultSchema,
} from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { ExecutionStream } from './execution-stream.ts'
import { CommandFailedError } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'
import type { Transport } from './transport.ts'

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

/** Runs a command and resolves with its result, whatever its exit code is. */
export const send = async (
  executor: Executor,
  given: ExecutionSpecInput,
  options: ExecuteOptions = {},
): Promise<ExecutionResult> => {
  const spec = withTimeout(executor, given)
  const timeoutMs = timeoutOf(spec)
  const requestTimeoutMs = options.requestTimeoutMs ?? timeoutMs + SDK_LIMITS.executionGraceMs
  if (timeoutMs > SDK_LIMITS.longExecutionMs) return sendLong(executor, spec, { ...options, requestTimeoutMs })
  const result = await executor.transport.json(
    { method: 'POST', path: PATH, body: spec, signal: options.signal, requestTimeoutMs },
    executionResultSchema,
  )
  if (options.check === true && result.status !== 'succeeded') throw new CommandFailedError(result)
  return result
}

/** The same by a stream, whose clock runs until the result instead of until the head. */
const sendLong = async (
  executor: Executor,
  spec: ExecutionSpecInput,
  options: ExecuteOptions & { requestTimeoutMs: number },
): Promise<ExecutionResult> => {
  const { requestTimeoutMs } = options
  const stream = streamOf(executor, spec, options)
  const expire = () =>
    stream.cancel(new BrambleError('request_timeout', { detail: `no result within ${requestTimeoutMs} ms` }))
  const hasClock = requestTimeoutMs > 0 && requestTimeoutMs <= SDK_LIMITS.maxTimerMs
  const timer = hasClock ? setTimeout(expire, requestTimeoutMs) : undefined
  try {
    return await stream.result
  } finally {
    clearTimeout(timer)
  }
}

/** Runs a command and gives its events as they happen. Nothing is sent before it is iterated or its result awaited. */
export const streamOf = (
  executor: Executor,
  given: ExecutionSpecInput,
  options: ExecuteOptions = {},
): ExecutionStream => {
  const spec = withTimeout(executor, given)
  const requestTimeoutMs = options.requestTimeoutMs ?? timeoutOf(spec) + SDK_LIMITS.executionGraceMs
  return new ExecutionStream(
    (signal) => executor.transport.stream({ method: 'POST', path: PATH, body: spec, signal, requestTimeoutMs }),
    options,
  )
}
