import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import type { MergeStrategy } from '@bramble/protocol'
import type { DiffBudget } from './diff-lines.ts'
import { mergeLines, type TextMerge, type TextVersion } from './merge-lines.ts'

export interface LineMergeRequest {
  readonly base: Uint8Array
  readonly versions: readonly TextVersion[]
  readonly settle: MergeStrategy
  readonly steps: number
}

export interface LineMergeAnswer {
  readonly bytes: Uint8Array
  readonly conflicts: TextMerge['conflicts']
  /** What is left of them. */
  readonly steps: number
}

/** Merges texts by lines, one after another; see `mergeLines`. */
export interface LineMerger extends AsyncDisposable {
  merge(request: LineMergeRequest): Promise<LineMergeAnswer>
}

/** What takes a few milliseconds at most, whoever wrote it, is done here; the rest by a thread, beside which a node goes on. */
const maxBytesHere = 64 * 1024

/** The thread starts with the first text that is large enough, and ends with the merger or the signal. */
export const lineMerger = (signal?: AbortSignal): LineMerger => {
  let worker: Worker | undefined
  const end = async (): Promise<void> => {
    await worker?.terminate()
  }
  return {
    async merge(request) {
      const sizes = [request.base, ...request.versions.map(({ bytes }) => bytes)].map(({ length }) => length)
      if (sizes.reduce((sum, size) => sum + size, 0) <= maxBytesHere) return mergeTexts(request)
      worker ??= new Worker(new URL('./merge-worker.ts', import.meta.url))
      const done = new AbortController()
      const waiting = { signal: signal === undefined ? done.signal : AbortSignal.any([done.signal, signal]) }
      const ended = once(worker, 'exit', waiting).then((): Promise<never> => {
        throw new Error('the thread that merges texts ended')
      })
      try {
        const answered = once(worker, 'message', waiting)
        worker.postMessage(request)
        const [answer] = await Promise.race([answered, ended])
        return answer
      } catch (thrown) {
        signal?.throwIfAborted()
        throw thrown
      } finally {
        done.abort()
      }
    },
    [Symbol.asyncDispose]: end,
  }
}

export const mergeTexts = ({ base, versions, settle, steps }: LineMergeRequest): LineMergeAnswer => {
  const budget: DiffBudget = { steps }
  const { bytes, conflicts } = mergeLines(base, versions, settle, budget)
  return { bytes, conflicts, steps: budget.steps }
}
