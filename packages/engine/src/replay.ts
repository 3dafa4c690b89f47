import { BrambleError, type ErrorCode, type ExecutionRecord, type ExecutionResult } from '@bramble/protocol'
import type { EngineEvent } from './engine.ts'

/** Why an execution without a result ended is not kept by its code; its words are. */
const LOST: ErrorCode = 'internal'

/** The events of an execution that has ended, from its record: each stream whole, stdout first. */
export function* replay(record: ExecutionRecord): Generator<EngineEvent> {
  const { id, result } = record
  yield { type: 'queued', id }
  if (!result) {
    const detail = record.message ?? `the execution ended as ${record.status}`
    yield { type: 'error', error: new BrambleError(LOST, { detail }).toProblem() }
    return
  }
  yield* eventsOf(result)
  yield { type: 'result', result }
}

/** What happened on the way to a result, from `started` to `exit`. */
export function* eventsOf(result: ExecutionResult): Generator<EngineEvent> {
  yield { type: 'started', id: result.id, runtime: result.runtime }
  for (const type of ['stdout', 'stderr'] as const)
    if (result[type] !== '') yield { type, data: Buffer.from(result[type], result.encoding) }
  yield { type: 'exit', code: result.exitCode, ...(result.signal !== undefined && { signal: result.signal }) }
}
