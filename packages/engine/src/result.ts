import type { BlobHash, ExecutionResult, InstanceId, OutputFile, Timings, Usage } from '@bramble/protocol'
import type { LiveExecution } from './live.ts'
import type { Clock } from './options.ts'
import { type Ending, encodeOutput, NO_USAGE, resultHashOf } from './outcome.ts'
import type { Kind } from './pool.ts'

/** Times of one execution by the monotonic clock; `startedAt` by the other. What did not happen has none. */
export interface Times {
  readonly enteredMs: number
  admittedMs: number
  execMs: number | undefined
  endedMs: number | undefined
  startedAt: number
}

export interface WhatCame {
  readonly ending: Ending
  readonly usage?: Usage
  readonly outputs?: Record<string, OutputFile>
  readonly instanceId?: InstanceId
  readonly snapshotId?: BlobHash
  readonly snapshotExpiresAt?: string
  /** Why there is no snapshot where there should be one. */
  readonly note?: string
}

/** To the microsecond: more digits are noise. */
const rounded = (ms: number): number => Math.round(ms * 1000) / 1000

const timingsOf = (times: Times, nowMs: number): Timings => ({
  queuedMs: rounded(times.admittedMs - times.enteredMs),
  startMs: rounded((times.execMs ?? nowMs) - times.admittedMs),
  execMs: rounded(times.execMs === undefined ? 0 : (times.endedMs ?? nowMs) - times.execMs),
  totalMs: rounded(nowMs - times.enteredMs),
})

export const resultOf = (
  live: LiveExecution,
  kind: Kind,
  clock: Clock,
  times: Times,
  came: WhatCame,
): ExecutionResult => {
  const { ending, usage = NO_USAGE, outputs = {}, instanceId, snapshotId, snapshotExpiresAt, note } = came
  const message = [ending.message, note].filter(Boolean).join('; ')
  const { stdoutSha256, stderrSha256, ...output } = encodeOutput(live.stdout, live.stderr)
  const nowMs = clock.monotonicMs()
  return {
    id: live.id,
    mode: live.spec.mode,
    runtime: live.runtime ?? kind.runtime.name,
    image: kind.image.digest,
    status: ending.status,
    exitCode: ending.exitCode,
    ...(ending.signal !== undefined && { signal: ending.signal }),
    ...(message !== '' && { message }),
    ...output,
    cached: false,
    ...(instanceId !== undefined && { instanceId }),
    ...(snapshotId !== undefined && { snapshotId }),
    ...(snapshotExpiresAt !== undefined && { snapshotExpiresAt }),
    outputs,
    inputHash: live.inputHash,
    resultHash: resultHashOf(ending, { ...output, stdoutSha256, stderrSha256 }, outputs),
    usage,
    timings: timingsOf(times, nowMs),
    startedAt: new Date(times.startedAt).toISOString(),
    finishedAt: new Date(clock.now()).toISOString(),
  }
}
