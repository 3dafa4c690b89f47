import { setTimeout as after } from 'node:timers/promises'
import {
  DEFAULT_BLOB_TTL_MS,
  type ExecutionResult,
  type OutputFile,
  outputsAsBlobs,
  toBrambleError,
  type Usage,
} from '@bramble/protocol'
import type { Agent, Sandbox, SandboxStats } from '@bramble/runtime'
import { type Place as Admitted, isWaiting, type Waiting } from './admission.ts'
import type { TenantBlobs } from './blobs/tenant-blobs.ts'
import { execRequestOf, type Place, placeOf, specWith } from './command.ts'
import type { Endings } from './endings.ts'
import type { EngineLimits } from './engine.ts'
import type { LiveExecution } from './live.ts'
import type { Clock, EngineNotice } from './options.ts'
import { type Ending, endingOfExit, NO_USAGE, OUT_OF_MEMORY, usageOf } from './outcome.ts'
import type { Fresh, Kind } from './pool.ts'
import { type Coming, isComing, type Pools } from './pools.ts'
import { resultOf, type Times, type WhatCame } from './result.ts'
import { type CommandEnd, runCommand } from './run-command.ts'
import type { KeptSnapshot } from './snapshots/execution-states.ts'
import { type BlobTransfer, blobsOfFiles, getOutputs, putFiles } from './transfer.ts'

export interface RunDeps {
  readonly pools: Pools
  readonly endings: Endings
  readonly limits: Pick<EngineLimits, 'killGraceMs' | 'filesTimeoutMs' | 'blobFilesTimeoutMs'>
  readonly blobs: TenantBlobs
  readonly clock: Clock
  readonly notice: (notice: EngineNotice) => void
  /** The execution's state changed: its record should say so. */
  readonly changed: (live: LiveExecution) => void
  /** Makes the snapshot that the execution leaves; absent: it leaves none. */
  readonly keep?: (sandbox: Sandbox) => Promise<KeptSnapshot | undefined>
}

/** How long a runtime may take to say why a sandbox ended whose agent fell silent. */
const LAST_WORDS_MS = 1000

export const stopped = (live: LiveExecution): Ending => ({
  status: live.stopReason ?? 'cancelled',
  exitCode: null,
  message:
    live.stopReason === 'timeout'
      ? `the command ran longer than ${live.spec.resources.timeoutMs} ms (\`resources.timeoutMs\`)`
      : 'the execution was cancelled',
})

/**
 * Carries one execution from the queue to its result. Rejects only where there is none: no sandbox could be made, its
 * files could not be written, it died before the command began, the engine closed.
 */
export const run = async (
  deps: RunDeps,
  live: LiveExecution,
  kind: Kind,
  entered: Admitted | Waiting,
): Promise<ExecutionResult> => {
  const { clock } = deps
  const enteredMs = clock.monotonicMs()
  const times: Times = {
    enteredMs,
    admittedMs: enteredMs,
    execMs: undefined,
    endedMs: undefined,
    startedAt: clock.now(),
  }
  const place = isWaiting(entered) ? await admitted(live, entered) : entered
  times.admittedMs = clock.monotonicMs()
  times.startedAt = clock.now()
  try {
    if (!place || live.stopReason) return resultOf(live, kind, clock, times, { ending: stopped(live) })
    const taken = deps.pools.take(kind)
    try {
      const fresh = isComing(taken) ? await arrived(live, taken) : taken
      if (!fresh) return resultOf(live, kind, clock, times, { ending: stopped(live) })
      return await runIn(deps, live, kind, fresh, times)
    } finally {
      deps.pools.returned(kind)
    }
  } finally {
    place?.release()
  }
}

const admitted = async (live: LiveExecution, waiting: Waiting): Promise<Admitted | undefined> => {
  live.onStop = () => waiting.leave()
  if (live.stopReason) waiting.leave()
  try {
    return await waiting.granted
  } finally {
    live.onStop = undefined
  }
}

const arrived = async (live: LiveExecution, coming: Coming): Promise<Fresh | undefined> => {
  live.onStop = () => coming.leave()
  if (live.stopReason) coming.leave()
  try {
    return await coming.ready
  } finally {
    live.onStop = undefined
  }
}

/** Runs `work` with a signal that aborts when the execution is stopped, or after `timeoutMs`. */
export const stoppable = async <T>(
  live: LiveExecution,
  timeoutMs: number,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> => {
  const controller = new AbortController()
  live.onStop = () => controller.abort()
  try {
    return await work(AbortSignal.any([controller.signal, AbortSignal.timeout(timeoutMs)]))
  } finally {
    live.onStop = undefined
  }
}

/** Runs the command in a sandbox of its own, and gives the sandbox up. */
const runIn = async (
  deps: RunDeps,
  live: LiveExecution,
  kind: Kind,
  fresh: Fresh,
  times: Times,
): Promise<ExecutionResult> => {
  const { clock, endings, limits, notice } = deps
  const { sandbox } = fresh
  const { files } = live.spec
  let buried = false
  const bury = (now: boolean): void => {
    if (!buried) endings.bury(sandbox, { now })
    buried = true
  }
  try {
    const spec = specWith(live.spec, kind.defaults)
    const where = placeOf(spec, kind.image)
    if (files && !live.stopReason) await writeFiles(deps, live, sandbox.agent, where)
    if (live.stopReason) return resultOf(live, kind, clock, times, { ending: stopped(live) })

    times.execMs = clock.monotonicMs()
    live.started(sandbox.runtime)
    deps.changed(live)
    const queuedMs = times.admittedMs - times.enteredMs
    notice({ type: 'started', runtime: sandbox.runtime, queuedMs, startMs: times.execMs - times.admittedMs })
    const request = execRequestOf(spec, kind.image, where)
    const end = await runCommand(live, sandbox.agent, {
      request,
      killGraceMs: limits.killGraceMs,
      destroy: () => bury(true),
    })
    times.endedMs = clock.monotonicMs()

    const stats = await sandbox.stats().catch(() => undefined)
    const ending = await judge(live, fresh, end, stats)
    live.exited(ending.exitCode, ending.signal)
    const usage: Usage = stats ? usageOf(stats, fresh.baseline) : NO_USAGE
    const read = await readOutputs(deps, live, sandbox.agent, where)
    const left = live.stopReason ? {} : await leave(deps, sandbox)
    return resultOf(live, kind, clock, times, { ending, usage, outputs: read, ...left })
  } finally {
    bury(live.stopReason !== undefined)
  }
}

/** The snapshot of its state. The command has run, whether it can be kept or not. */
const leave = async (
  { keep }: RunDeps,
  sandbox: Sandbox,
): Promise<Pick<WhatCame, 'snapshotId' | 'snapshotExpiresAt' | 'note'>> => {
  try {
    const kept = await keep?.(sandbox)
    if (kept === undefined) return {}
    const { id, expiresAt } = kept
    return { snapshotId: id, ...(expiresAt !== null && { snapshotExpiresAt: expiresAt }) }
  } catch (error) {
    return { note: `its snapshot could not be taken: ${toBrambleError(error).detail}` }
  }
}

type TransferDeps = Pick<RunDeps, 'limits' | 'blobs'>

/** Of outputs that a result does not keep: whoever asked for it fetches them. */
const OUTPUT_SPARE_MS = 60_000

const transferOf = ({ blobs }: TransferDeps, { spec, context: { tenant, quota } }: LiveExecution): BlobTransfer => {
  const ttlMs = (spec.cacheTtlMs || DEFAULT_BLOB_TTL_MS) + OUTPUT_SPARE_MS
  return {
    read: (hash, signal) => blobs.get(tenant, hash, { signal }),
    keep: outputsAsBlobs(spec)
      ? (content, signal) => blobs.put(tenant, content, { ttlMs, origin: 'result', signal, ...(quota && { quota }) })
      : undefined,
  }
}

/** A stop ends the writing without an error; everything else that does is one. */
export const writeFiles = async (
  deps: TransferDeps,
  live: LiveExecution,
  agent: Agent,
  where: Place,
): Promise<void> => {
  const { files = {} } = live.spec
  const { filesTimeoutMs, blobFilesTimeoutMs } = deps.limits
  const timeoutMs = blobsOfFiles(files).length > 0 ? blobFilesTimeoutMs : filesTimeoutMs
  try {
    await stoppable(live, timeoutMs, (signal) => putFiles(agent, files, where, transferOf(deps, live), signal))
  } catch (error) {
    if (!live.stopReason) throw error
  }
}

export const readOutputs = async (
  deps: TransferDeps,
  live: LiveExecution,
  agent: Agent,
  where: Place,
): Promise<Record<string, OutputFile>> => {
  const { outputs = [] } = live.spec
  if (outputs.length === 0) return {}
  const blobs = transferOf(deps, live)
  const { filesTimeoutMs, blobFilesTimeoutMs } = deps.limits
  return await stoppable(live, blobs.keep ? blobFilesTimeoutMs : filesTimeoutMs, (signal) =>
    getOutputs(agent, outputs, where, blobs, signal),
  )
}

/** What the end of the command means for the execution. Throws where the sandbox broke before the command began. */
export const judge = async (
  live: LiveExecution,
  fresh: Fresh,
  end: CommandEnd,
  stats: SandboxStats | undefined,
): Promise<Ending> => {
  if (live.stopReason) return stopped(live)
  const oomKills = (stats?.oomKills ?? 0) - fresh.baseline.oomKills
  if (end.kind === 'exit') return endingOfExit(end.exit, oomKills)
  if (!end.started) throw end.error
  if (oomKills > 0) return OUT_OF_MEMORY
  const why = end.error.code === 'sandbox_died' ? await lastWords(fresh.sandbox) : undefined
  if (why && why.oomKills > fresh.baseline.oomKills) return OUT_OF_MEMORY
  return {
    status: 'error',
    exitCode: null,
    message: why ? `the sandbox ended by itself: ${why.detail}` : end.error.message,
  }
}

const lastWords = async (sandbox: Sandbox): Promise<{ detail: string; oomKills: number } | undefined> => {
  const patience = new AbortController()
  const late = after(LAST_WORDS_MS, undefined, { signal: patience.signal }).catch(() => undefined)
  const end = await Promise.race([sandbox.ended, late])
  patience.abort()
  return end?.by === 'itself' ? end : undefined
}
