import {
  BrambleError,
  type ExecutionId,
  type ExecutionResult,
  type ExecutionSpec,
  newId,
  toBrambleError,
} from '@bramble/protocol'
import type { ExecuteContext, Execution } from '../engine.ts'
import type { History } from '../history.ts'
import type { OutputRoom } from '../kept-output.ts'
import { LiveExecution } from '../live.ts'
import type { Clock, EngineNotice, Log } from '../options.ts'
import { NO_USAGE } from '../outcome.ts'
import type { Kind } from '../pool.ts'
import { eventsOf } from '../replay.ts'
import { resultOf } from '../result.ts'
import { stopped } from '../run.ts'
import { assertCacheable } from './cacheable.ts'
import { CachedExecution } from './cached-execution.ts'
import { hitText } from './hit.ts'
import { jsonOf } from './prepared.ts'
import type { CachedResult, ResultCache, ThroughAnswer } from './result-cache.ts'

export interface CachedModeDeps {
  readonly cache: ResultCache
  readonly history: History
  readonly clock: Clock
  readonly log: Log
  readonly notice: (notice: EngineNotice) => void
  readonly outputRoom: OutputRoom
  /** Throws what is wrong with the spec, or with the moment. */
  readonly check: (spec: ExecutionSpec) => { kind: Kind; inputHash: string }
  /** Waits for a place, and runs it. `changed`: its state is another. */
  readonly run: (live: LiveExecution, kind: Kind, changed: (live: LiveExecution) => void) => Promise<ExecutionResult>
  /** Others can find it, and its image stays. */
  readonly enter: (live: LiveExecution, kind: Kind) => void
  readonly leave: (live: LiveExecution, kind: Kind) => void
}

const rounded = (ms: number): number => Math.round(ms * 1000) / 1000
const MB_IN_GB = 1024

export interface CachedMode {
  execute(spec: ExecutionSpec, context: ExecuteContext): Execution
  /** Resolves when no run is left: those whom nobody waits for any more end, too. */
  settled(): Promise<void>
}

/** Executions of mode `cached`: from memory at once, else by way of the cache's tiers and its single flight. */
export const createCachedMode = (deps: CachedModeDeps): CachedMode => {
  const { cache, history, clock, log, notice } = deps
  const waiting = new Map<string, Set<CachedExecution>>()
  const runs = new Map<string, LiveExecution>()
  const ends = new Set<Promise<void>>()

  /** Costs no I/O, no place in the queue and no sandbox. */
  const hit = (spec: ExecutionSpec, context: ExecuteContext, kept: CachedResult, beganMs: number): Execution => {
    const now = clock.now()
    const id = newId('execution', { now: () => now })
    const at = new Date(now).toISOString()
    const timings = { queuedMs: 0, startMs: 0, execMs: 0, totalMs: rounded(clock.monotonicMs() - beganMs) }
    const result: ExecutionResult = { ...kept.result, id, timings, startedAt: at, finishedAt: at }
    const { status, runtime } = result
    const conclusion = { result }
    const resultText = (): string => hitText(result, kept)
    history.changed({ id, spec, context, status, runtime, createdAt: at, finishedAt: at, conclusion, resultText })
    return {
      id,
      result: Promise.resolve(result),
      json: () => jsonOf(result, kept.jsonTail),
      cancel: () => {},
      async *[Symbol.asyncIterator]() {
        yield { type: 'queued', id }
        yield* eventsOf(result)
        yield { type: 'result', result }
      },
    }
  }

  /** The run that all who wait get the result of. Whoever began it pays for it, even having gone. */
  const lead = async (
    leader: CachedExecution,
    kind: Kind,
    key: string,
    signal: AbortSignal,
  ): Promise<ExecutionResult> => {
    const { spec, inputHash, context } = leader
    const { tenant, keyId, quota } = context
    const now = clock.now()
    const owner = { tenant, keyId, ...(quota && { quota }) }
    const createdAt = new Date(now).toISOString()
    const run = new LiveExecution(
      newId('execution', { now: () => now }),
      spec,
      owner,
      inputHash,
      createdAt,
      deps.outputRoom,
    )
    const stop = (): void => run.stop('cancelled')
    signal.addEventListener('abort', stop, { once: true })
    const each = (tell: (one: CachedExecution) => void): void => waiting.get(key)?.forEach(tell)
    runs.set(key, run)
    ends.add(run.done)
    each((one) => one.follow(run))
    try {
      const result = await deps.run(run, kind, () => each((one) => one.ran(run)))
      run.conclude({ result }, result.finishedAt)
      const { status, runtime, timings, usage } = result
      notice({ type: 'finished', status, runtime, timings, cpuMs: usage.cpuMs })
      if (leader.conclusion) {
        const heldSeconds = (timings.startMs + timings.execMs) / 1000
        const memory_gb_seconds = (spec.resources.memoryMb / MB_IN_GB) * heldSeconds
        const used = { cpu_seconds: usage.cpuMs / 1000, memory_gb_seconds, egress_bytes: usage.egressBytes }
        history.charge({ tenant, key_id: keyId, ...used })
      }
      return result
    } catch (thrown) {
      run.conclude({ error: toBrambleError(thrown).toProblem() }, new Date(clock.now()).toISOString())
      throw thrown
    } finally {
      signal.removeEventListener('abort', stop)
      if (runs.get(key) === run) runs.delete(key)
      run.recorded()
      ends.delete(run.done)
      run.stdout.release()
      run.stderr.release()
    }
  }

  const answerOf = (live: CachedExecution, { source, result }: ThroughAnswer, beganMs: number): ExecutionResult => {
    const totalMs = rounded(clock.monotonicMs() - beganMs)
    const { id } = live
    if (source === 'executed') return { ...result, id, timings: { ...result.timings, totalMs } }
    const timings = { queuedMs: totalMs, startMs: 0, execMs: 0, totalMs }
    const finishedAt = new Date(clock.now()).toISOString()
    return { ...result, id, usage: NO_USAGE, timings, startedAt: live.createdAt, finishedAt }
  }

  const carry = async (live: CachedExecution, kind: Kind, beganMs: number): Promise<ExecutionResult> => {
    const { spec, context, inputHash } = live
    const { tenant, signal } = context
    const stopping = new AbortController()
    const cancel = (): void => live.stop('cancelled')
    live.onStop = () => stopping.abort(new BrambleError('cancelled', { detail: 'the execution was cancelled' }))
    signal?.addEventListener('abort', cancel, { once: true })
    if (signal?.aborted) cancel()
    const key = `${inputHash} ${tenant}`
    const group = waiting.get(key) ?? new Set()
    waiting.set(key, group.add(live))
    const running = cache.running(tenant, inputHash) ? runs.get(key) : undefined
    if (running) live.follow(running)
    if (running) live.ran(running)
    const { image, labels = {}, cacheTtlMs: ttlMs, cacheFailures: failures } = spec
    const wish = { tenant, inputHash, imageDigest: kind.image.digest, image, labels, ttlMs, failures }
    try {
      const came = await cache.through({ ...wish, signal: stopping.signal }, (none) => lead(live, kind, key, none))
      live.kept = came.kept
      const result = answerOf(live, came, beganMs)
      live.conclude({ result }, result.finishedAt)
      return result
    } catch (thrown) {
      if (live.stopReason) {
        const startedAt = clock.now()
        const times = {
          enteredMs: beganMs,
          admittedMs: clock.monotonicMs(),
          execMs: undefined,
          endedMs: undefined,
          startedAt,
        }
        const result = resultOf(live, kind, clock, times, { ending: stopped(live) })
        live.conclude({ result }, result.finishedAt)
        return result
      }
      const error = toBrambleError(thrown)
      if (error.code === 'internal') log.error({ err: thrown, execution: live.id }, 'an execution broke')
      live.conclude({ error: error.toProblem() }, new Date(clock.now()).toISOString())
      notice({ type: 'lost', code: error.code })
      throw error
    } finally {
      signal?.removeEventListener('abort', cancel)
      group.delete(live)
      if (group.size === 0 && waiting.get(key) === group) waiting.delete(key)
      deps.leave(live, kind)
    }
  }

  const execute: CachedMode['execute'] = (spec, context) => {
    const beganMs = clock.monotonicMs()
    const { tenant } = context
    assertCacheable(spec)
    const { kind, inputHash } = deps.check(spec)
    const kept = cache.peek(tenant, inputHash, spec.cacheTtlMs)
    if (kept) return hit(spec, context, kept, beganMs)
    const now = clock.now()
    const id: ExecutionId = newId('execution', { now: () => now })
    const live = new CachedExecution(id, spec, { ...context, stream: false }, inputHash, new Date(now).toISOString())
    deps.enter(live, kind)
    const result = carry(live, kind, beganMs)
    // Who streams may never look at the promise; the stream's last event says the same.
    result.catch(() => {})
    return {
      id,
      result,
      cancel: () => live.stop('cancelled'),
      [Symbol.asyncIterator]: () => live.watch()[Symbol.asyncIterator](),
    }
  }
  return {
    execute,
    async settled() {
      while (ends.size > 0) await Promise.all(ends)
    },
  }
}
