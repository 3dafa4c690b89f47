import type { EngineEvent } from '../engine.ts'
import { type Conclusion, LiveExecution, lastEvent, type WatchOptions } from '../live.ts'
import { eventsOf } from '../replay.ts'
import { type HitReference, hitText } from './hit.ts'
import type { CachedResult } from './result-cache.ts'

/**
 * A request of mode `cached` that memory did not answer: it waits for a tier, for an equal one that runs already, or for the run
 * that it began. The run is an execution of its own, which goes on for others when this one is stopped; what it says is told to
 * each who waits, as it comes.
 */
export class CachedExecution extends LiveExecution {
  /** What the cache has of its result, where it does. */
  kept: CachedResult | undefined
  #run: LiveExecution | undefined
  readonly #over = new AbortController()
  #changed = Promise.withResolvers<void>()

  /** `run` is the one whose result it will get, if that has one. The first stays: nobody hears two. */
  follow(run: LiveExecution): void {
    this.#run ??= run
    this.#tell()
  }

  /** The run that it follows has begun. */
  ran(run: LiveExecution): void {
    if (this.#run !== run || run.runtime === undefined || this.conclusion) return
    this.status = 'running'
    this.runtime = run.runtime
  }

  override conclude(conclusion: Conclusion, finishedAt: string): void {
    if ('result' in conclusion) this.runtime = conclusion.result.runtime
    super.conclude(conclusion, finishedAt)
    // The run may go on for others.
    if (this.stopReason !== undefined) this.#over.abort()
    this.#tell()
  }

  get resultText(): (() => string) | undefined {
    const { kept, conclusion } = this
    if (!kept || !conclusion || !('result' in conclusion)) return undefined
    const own: HitReference = conclusion.result
    return () => hitText(own, kept)
  }

  override async *watch({ signal, follow = true }: WatchOptions = {}): AsyncGenerator<EngineEvent> {
    signal?.throwIfAborted()
    yield { type: 'queued', id: this.id }
    let followed = false
    while (!this.conclusion) {
      const run = this.#run
      if (run && !followed) {
        followed = true
        yield* this.#eventsOf(run, { signal, follow })
      } else if (follow) await this.#change(signal)
      else return
      if (!follow && !this.conclusion) return
    }
    if (!followed && 'result' in this.conclusion) yield* eventsOf(this.conclusion.result)
    yield lastEvent(this.conclusion)
  }

  async *#eventsOf(run: LiveExecution, { signal, follow = true }: WatchOptions): AsyncGenerator<EngineEvent> {
    const either = signal ? AbortSignal.any([signal, this.#over.signal]) : this.#over.signal
    try {
      for await (const event of run.watch({ signal: either, follow }))
        if (event.type === 'started') yield { ...event, id: this.id }
        else if (event.type === 'stdout' || event.type === 'stderr' || event.type === 'exit') yield event
    } catch (error) {
      signal?.throwIfAborted()
      if (!this.conclusion) throw error
    }
  }

  #tell(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }

  async #change(signal: AbortSignal | undefined): Promise<void> {
    const { promise: aborted, reject } = Promise.withResolvers<never>()
    const abort = (): void => reject(signal?.reason)
    signal?.addEventListener('abort', abort, { once: true })
    try {
      await Promise.race([this.#changed.promise, aborted])
    } finally {
      signal?.removeEventListener('abort', abort)
    }
  }
}
