import { BrambleError, type ErrorCode, type ExecutionResult, executionResultSchema, newId } from '@bramble/protocol'
import { answer, type Script } from './scripted-server.ts'

/** A result as a node would answer it. */
export const sampleResult = (change: Partial<ExecutionResult> = {}): ExecutionResult =>
  executionResultSchema.parse({
    id: newId('execution'),
    mode: 'ephemeral',
    runtime: 'fake',
    image: `sha256:${'0'.repeat(64)}`,
    status: 'succeeded',
    exitCode: 0,
    stdout: '',
    stderr: '',
    encoding: 'utf8',
    truncated: false,
    cached: false,
    outputs: {},
    inputHash: '0'.repeat(64),
    resultHash: '0'.repeat(64),
    usage: { cpuMs: 1, peakMemoryBytes: 1, diskBytes: 0, egressBytes: 0 },
    timings: { queuedMs: 0, startMs: 1, execMs: 1, totalMs: 2 },
    startedAt: '2026-01-01T00:00:00.000Z',
    finishedAt: '2026-01-01T00:00:00.002Z',
    ...change,
  })

/** A problem document of `code`, with its own status. */
export const problem = (code: ErrorCode, headers: Record<string, string> = {}): Script => {
  const document = new BrambleError(code, { detail: 'as the test says' }).toProblem('req_1')
  return answer(document.status, { 'content-type': 'application/problem+json', ...headers }, JSON.stringify(document))
}
