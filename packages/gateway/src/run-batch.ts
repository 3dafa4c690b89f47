import {
  type BatchItemResult,
  type BatchRequest,
  type BatchResponse,
  BrambleError,
  type ExecutionResult,
  newId,
} from '@bramble/protocol'
import type { Caller } from './auth.ts'
import type { GatewayContext } from './context.ts'
import { pumpEvents } from './event-pump.ts'
import { problemOf } from './problems.ts'
import { executeContext } from './routes/executions.ts'
import type { EventStream } from './sse.ts'

export interface BatchRun {
  readonly request: BatchRequest
  readonly caller: Caller
  readonly signal: AbortSignal
  readonly requestId: string
  /** Where the events go; without one, the answer alone tells. */
  readonly stream?: EventStream | undefined
  readonly outliveClient: boolean
}

/**
 * Runs the items, at most `maxConcurrency` at once and never more than the key's quota of sandboxes. An item that fails
 * is an error in the answer, beside the results of the others. In a race, the first to succeed cancels the rest.
 */
export const runBatch = async (context: GatewayContext, run: BatchRun): Promise<BatchResponse> => {
  const { items, strategy, maxConcurrency } = run.request
  const outcomes: BatchItemResult[] = []
  const decided = new AbortController()
  const signal = AbortSignal.any([run.signal, decided.signal])
  const budget = { outputBytes: context.limits.maxBatchOutputBytes }
  let winner: number | undefined
  let next = 0

  const worker = async (): Promise<void> => {
    for (let index = next++; index < items.length; index = next++) {
      const outcome = await runItem(context, run, index, signal, budget)
      outcomes[index] = outcome
      if (strategy === 'race' && winner === undefined && 'result' in outcome && outcome.result.status === 'succeeded') {
        winner = index
        decided.abort()
      }
    }
  }
  const workers = Math.min(maxConcurrency, items.length, run.caller.quota.concurrentSandboxes ?? maxConcurrency)
  await Promise.all(Array.from({ length: workers }, worker))
  return { id: newId('batch'), strategy, ...(winner !== undefined && { winner }), items: outcomes }
}

const runItem = async (
  context: GatewayContext,
  run: BatchRun,
  index: number,
  signal: AbortSignal,
  budget: { outputBytes: number },
): Promise<BatchItemResult> => {
  const spec = run.request.items[index]
  const { stream } = run
  const wrap = [`{"index":${index},"event":`, '}'] as const
  try {
    if (!spec || signal.aborted) throw new BrambleError('cancelled', { detail: 'the batch was decided before it ran' })
    const execution = context.engine.execute(spec, executeContext(run.caller, signal, stream !== undefined))
    let result: ExecutionResult
    if (stream) {
      execution.result.catch(() => {})
      const { requestId, outliveClient } = run
      const end = await pumpEvents(execution, stream, { requestId, outliveClient, wrap })
      if ('error' in end) return { index, error: end.error }
      result = end.result
    } else result = await execution.result
    // What was streamed has gone by: it is kept only for whoever may repeat the request.
    if (stream && !run.outliveClient) return { index, result: withoutOutput(result) }
    budget.outputBytes -= outputBytesOf(result)
    if (budget.outputBytes >= 0) return { index, result }
    if (stream) return { index, result: withoutOutput(result) }
    throw new BrambleError('body_too_large', {
      detail: `the outputs of this batch are more than ${context.limits.maxBatchOutputBytes} bytes together`,
    })
  } catch (error) {
    const problem = problemOf(error, run.requestId)
    if (stream) await stream.send('error', wrap[0] + JSON.stringify({ type: 'error', error: problem }) + wrap[1])
    return { index, error: problem }
  }
}

const outputBytesOf = ({ stdout, stderr, outputs }: ExecutionResult): number => {
  let bytes = stdout.length + stderr.length
  for (const output of Object.values(outputs)) if ('content' in output) bytes += output.content.length
  return bytes
}

const withoutOutput = (result: ExecutionResult): ExecutionResult => ({
  ...result,
  stdout: '',
  stderr: '',
  outputs: {},
  truncated: true,
})
