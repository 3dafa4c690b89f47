import { BrambleError, type ExecutionResult, type ExecutionSpecInput } from '@bramble/protocol'
import type { ExecuteOptions } from './call.ts'
import { type Executor, send } from './execute.ts'
import { ExecutionBuilder } from './execution-builder.ts'
import { cancelled } from './failure.ts'
import { SDK_LIMITS } from './limits.ts'

/** Anything that says what to run: a line for `sh -c`, an argv, a spec, or a builder (its own options hold too). */
export type Runnable = string | string[] | ExecutionSpecInput | ExecutionBuilder

export interface MapOptions extends ExecuteOptions {
  /** Executions under way at once. Default 8. */
  readonly maxConcurrency?: number | undefined
}

/** The result of the execution that decided a race, with its place in the list. */
export type RaceResult = ExecutionResult & { readonly index: number }

export const specOf = (runnable: Runnable): ExecutionSpecInput => {
  if (runnable instanceof ExecutionBuilder) return runnable.spec
  return typeof runnable === 'string' || Array.isArray(runnable) ? { command: runnable } : runnable
}

const sendAny = (executor: Executor, runnable: Runnable, options: ExecuteOptions): Promise<ExecutionResult> =>
  runnable instanceof ExecutionBuilder ? runnable.send(options) : send(executor, specOf(runnable), options)

/** A signal of our own that follows the caller's, so that one failure can end what runs beside it. */
const linked = (outer: AbortSignal | undefined) => {
  const controller = new AbortController()
  const follow = () => controller.abort(outer?.reason)
  if (outer?.aborted) follow()
  else outer?.addEventListener('abort', follow, { once: true })
  return { controller, unlink: () => outer?.removeEventListener('abort', follow) }
}

/**
 * Runs a command for each input, at most `maxConcurrency` at once, and resolves with the results in the order of the
 * inputs. The first error (not: the first non-zero exit, unless `check`) cancels the rest and rejects.
 */
export const map = async <T>(
  executor: Executor,
  inputs: Iterable<T> | AsyncIterable<T>,
  toRunnable: (input: T, index: number) => Runnable,
  options: MapOptions = {},
): Promise<ExecutionResult[]> => {
  const { maxConcurrency = SDK_LIMITS.mapConcurrency, signal, ...rest } = options
  if (!Number.isInteger(maxConcurrency) || maxConcurrency < 1)
    throw new BrambleError('invalid_request', { detail: `maxConcurrency is ${maxConcurrency}, not an integer from 1` })
  const { controller, unlink } = linked(signal)
  const results: ExecutionResult[] = []
  const iterator = Symbol.asyncIterator in inputs ? inputs[Symbol.asyncIterator]() : inputs[Symbol.iterator]()
  let count = 0
  let turn: Promise<unknown> = Promise.resolve()
  /** One at a time: an iterator that is asked again before it answered may answer out of order. */
  const next = (): Promise<{ index: number; input: T } | undefined> => {
    const mine = turn.then(async () => {
      if (controller.signal.aborted) throw cancelled(controller.signal.reason)
      const { done, value } = await iterator.next()
      return done === true ? undefined : { index: count++, input: value }
    })
    turn = mine.catch(() => undefined)
    return mine
  }
  const worker = async (): Promise<void> => {
    for (let job = await next(); job !== undefined; job = await next())
      results[job.index] = await sendAny(executor, toRunnable(job.input, job.index), {
        ...rest,
        signal: controller.signal,
      })
  }
  let failure: { error: unknown } | undefined
  const guarded = () =>
    worker().catch((error: unknown) => {
      failure ??= { error }
      controller.abort(error)
    })
  // An input that never comes must not keep an aborted map waiting.
  const aborted = new Promise<void>((resolve) =>
    controller.signal.addEventListener('abort', () => resolve(), { once: true }),
  )
  try {
    await Promise.race([Promise.all(Array.from({ length: maxConcurrency }, guarded)), aborted])
    if (failure !== undefined) throw failure.error
    if (controller.signal.aborted) throw cancelled(controller.signal.reason)
    return results
  } finally {
    unlink()
    void Promise.resolve(iterator.return?.()).catch(() => undefined)
  }
}

/**
 * Runs all at once and resolves with the first to succeed; the others are cancelled. When none succeeds: the result of
 * the first in the list that has one, so its status says how it failed; when none has a result, the first one's error.
 */
export const race = async (
  executor: Executor,
  runnables: readonly Runnable[],
  options: ExecuteOptions = {},
): Promise<RaceResult> => {
  if (runnables.length === 0) throw new BrambleError('invalid_request', { detail: 'a race of no commands' })
  const { controller, unlink } = linked(options.signal)
  let winner: RaceResult | undefined
  const run = async (runnable: Runnable, index: number): Promise<RaceResult> => {
    const result = await sendAny(executor, runnable, { ...options, signal: controller.signal })
    const placed = { ...result, index }
    if (result.status === 'succeeded' && winner === undefined) {
      winner = placed
      controller.abort(new BrambleError('cancelled', { detail: `command ${index} of the race was first` }))
    }
    return placed
  }
  try {
    const ends = await Promise.allSettled(runnables.map(run))
    if (winner !== undefined) return winner
    if (options.signal?.aborted) throw cancelled(options.signal.reason)
    for (const end of ends) if (end.status === 'fulfilled') return end.value
    throw ends.find((end) => end.status === 'rejected')?.reason
  } finally {
    unlink()
  }
}
