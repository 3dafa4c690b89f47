import { BrambleError, toBrambleError } from '@bramble/protocol'
import { isUnavailable } from './breaker.ts'
import type { TieredContext } from './context.ts'
import { codeOf } from './fetch-blob.ts'
import type { Waiting } from './upload-queue.ts'

export interface UploaderOptions {
  readonly atOnce: number
  /** After the first failure; it doubles with each, up to `pauseMaxMs`. */
  readonly firstPauseMs: number
  readonly random: () => number
}

/** Blobs above this size go in parts, several at once of each. */
const largeBytesMin = 4 * 1024 * 1024
const isLarge = ({ storedBytes }: Waiting): boolean => storedBytes > largeBytesMin

/** Does what the queue has, oldest first, for ever. */
export interface Uploader {
  kick(): void
  /** Why nothing is brought over now. */
  readonly failure: string | undefined
  /** Ends what is under way; it is done again by the next one. */
  close(): Promise<void>
}

const pauseMaxMs = 60_000
/** A name waits for the blobs before it, but not for one that fails again and again while others do not. */
const failuresMax = 5

export const openUploader = (context: TieredContext, options: UploaderOptions): Uploader => {
  const { queue, observe } = context
  const closing = new AbortController()
  const running = new Map<number, Promise<void>>()
  /** Of those that failed: by number. */
  const failed = new Map<number, { failures: number; notBeforeMs: number }>()
  /** While the tier fails, one at a time is tried, after a pause. */
  let failure: { readonly reason: string; pauseMs: number; notBeforeMs: number } | undefined
  let timer: NodeJS.Timeout | undefined
  let wakeMs = Number.POSITIVE_INFINITY
  const nowMs = (): number => performance.now()

  const wake = (atMs: number): void => {
    if (atMs >= wakeMs) return
    clearTimeout(timer)
    wakeMs = atMs
    timer = setTimeout(
      () => {
        wakeMs = Number.POSITIVE_INFINITY
        kick()
      },
      Math.max(0, atMs - nowMs()),
    ).unref()
  }

  const isReady = ({ number }: Waiting, at: number): boolean => {
    const notBefore = failed.get(number)?.notBeforeMs
    if (running.has(number)) return false
    if (notBefore === undefined || notBefore <= at) return true
    wake(notBefore)
    return false
  }

  /** The next that may be done: of names, only when the blobs before them are. */
  const next = (): Waiting | undefined => {
    const at = nowMs()
    let blobsBefore = false
    for (const waiting of queue.all()) {
      const { kind, target } = waiting.task
      // An earlier task of the same is still under way; or one as large, of which one at a time is in memory.
      const isBusy = busy.has(`${kind} ${target}`) || (isLarge(waiting) && largeRunning > 0)
      if (!isBusy && !(kind === 'name' && blobsBefore) && isReady(waiting, at)) return waiting
      if (kind === 'blob' && (failed.get(waiting.number)?.failures ?? 0) < failuresMax) blobsBefore = true
    }
    return undefined
  }
  const busy = new Set<string>()
  let largeRunning = 0

  const run = async (waiting: Waiting): Promise<void> => {
    const { task, number } = waiting
    const what = `${task.kind} ${task.target}`
    try {
      await context.step('task')
      await perform(context, waiting, closing.signal)
      await context.step('done')
      failed.delete(number)
      queue.done(waiting)
      if (failure) {
        failure = undefined
        observe({ kind: 'available' })
      }
    } catch (thrown) {
      if (closing.signal.aborted) return
      const error = toBrambleError(thrown)
      const failures = (failed.get(number)?.failures ?? 0) + 1
      const pauseMs = jittered(Math.min(pauseMaxMs, options.firstPauseMs * 2 ** (failures - 1)))
      failed.set(number, { failures, notBeforeMs: nowMs() + pauseMs })
      observe({ kind: 'failed', what, reason: error.detail, all: isUnavailable(error) })
      if (isUnavailable(error)) pauseAll(error)
    }
  }
  const jittered = (ms: number): number => ms / 2 + (options.random() * ms) / 2
  const pauseAll = (error: BrambleError): void => {
    if (!failure) observe({ kind: 'unavailable', reason: error.detail })
    const pauseMs = failure ? Math.min(failure.pauseMs * 2, pauseMaxMs) : options.firstPauseMs
    failure = { reason: error.detail, pauseMs, notBeforeMs: nowMs() + jittered(pauseMs) }
  }

  const kick = (): void => {
    while (!closing.signal.aborted && running.size < (failure ? 1 : options.atOnce)) {
      if (failure && failure.notBeforeMs > nowMs()) {
        wake(failure.notBeforeMs)
        return
      }
      const waiting = next()
      if (!waiting) return
      const key = `${waiting.task.kind} ${waiting.task.target}`
      busy.add(key)
      if (isLarge(waiting)) largeRunning++
      const task = run(waiting).finally(() => {
        busy.delete(key)
        if (isLarge(waiting)) largeRunning--
        running.delete(waiting.number)
        kick()
      })
      running.set(waiting.number, task)
    }
  }

  return {
    kick,
    get failure() {
      return failure?.reason
    },
    close: async () => {
      closing.abort(new BrambleError('shutting_down', { detail: 'the store is closed' }))
      clearTimeout(timer)
      await Promise.allSettled(running.values())
    },
  }
}

/** Above this size it is asked first whether the shared tier has it already; below, asking costs as much as sending. */
const askedBytesMin = 256 * 1024

const perform = async (context: TieredContext, { task, storedBytes }: Waiting, signal: AbortSignal): Promise<void> => {
  const { local, shared, uploaded, observe } = context
  if (task.kind === 'blob' && task.does === 'remove') {
    await local.remove(task.target, { signal })
    await shared.remove(task.target, { signal })
    return
  }
  if (task.kind === 'blob') {
    const hash = task.target
    if (storedBytes < askedBytesMin || !(await shared.isRecent?.(hash, { signal }))) {
      const sent = await upload(context, hash, signal)
      if (sent === undefined) return
      observe({ kind: 'uploaded', storedBytes: sent })
    }
    uploaded.add(hash)
    return
  }
  if (task.does === 'remove') return shared.names.remove(task.target, { signal })
  const value = await local.names.get(task.target).catch((thrown: unknown) => {
    if (codeOf(thrown) !== 'blob_corrupt') throw thrown
    return undefined
  })
  if (value) return shared.names.set(task.target, value, { signal })
  observe({ kind: 'lost', what: `name ${task.target}`, reason: 'its value is gone, and was not uploaded yet' })
}

/** Gives what it took, or undefined where there is nothing to send any more. */
const upload = async (context: TieredContext, hash: string, signal: AbortSignal): Promise<number | undefined> => {
  const { local, shared, observe } = context
  const blob = hash as Parameters<typeof local.get>[0]
  try {
    const stream = await local.get(blob, { signal })
    const { codec, sizeBytes } = stream.info
    const temperature = codec === 'zstd' ? 'cold' : 'hot'
    return (await shared.put(stream, { expect: blob, sizeBytes, temperature, signal })).storedBytes
  } catch (thrown) {
    const code = codeOf(thrown)
    // A collection found that nobody needs it.
    if (code === 'blob_not_found') return undefined
    if (code !== 'blob_corrupt') throw thrown
    // The local copy is damaged. There may be another from before.
    const there = await shared.stat(blob, { signal })
    if (!there) observe({ kind: 'lost', what: hash, reason: (thrown as BrambleError).detail })
    return undefined
  }
}
