import type { ExecutionId, ExecutionPhase, ExecutionResult, ExecutionSpec, Problem } from '@bramble/protocol'
import { type Channel, createChannel } from './channel.ts'
import type { EngineEvent, ExecuteContext } from './engine.ts'
import { type KeptOutput, keepOutput, type OutputRoom } from './kept-output.ts'

/** Output on its way to whoever streams an execution. */
const STREAM_HIGH_WATER_BYTES = 512 * 1024
/** Output still taken for a stream whose command is being stopped, when its reader has stalled. */
const STOPPED_STREAM_MAX_BYTES = 4 * 1024 * 1024
const WATCHER_CHUNK_BYTES = 64 * 1024

export type StopReason = 'timeout' | 'cancelled'

/** How an execution ended: with a result, or with what kept it from having one. */
export type Conclusion = { readonly result: ExecutionResult } | { readonly error: Problem }

export interface WatchOptions {
  readonly signal?: AbortSignal
  readonly follow?: boolean
}

/** One execution from its beginning to its end: what others see of it, and how they stop it. */
export class LiveExecution {
  readonly id: ExecutionId
  readonly spec: ExecutionSpec
  readonly context: ExecuteContext
  readonly inputHash: string
  readonly createdAt: string
  readonly stdout: KeptOutput
  readonly stderr: KeptOutput
  /** Where events go when the execution is streamed. */
  readonly channel: Channel<EngineEvent> | undefined
  /** Resolves when it has ended and its record says so. */
  readonly done: Promise<void>
  status: ExecutionPhase = 'queued'
  runtime: string | undefined
  stopReason: StopReason | undefined
  exit: (EngineEvent & { type: 'exit' }) | undefined
  conclusion: Conclusion | undefined
  finishedAt: string | undefined
  /** What stopping means now; set by the step that runs. */
  onStop: ((reason: StopReason) => void) | undefined
  #finish: () => void = () => {}
  #watchers: (() => void)[] = []

  constructor(
    id: ExecutionId,
    spec: ExecutionSpec,
    context: ExecuteContext,
    inputHash: string,
    createdAt: string,
    room?: OutputRoom,
  ) {
    this.id = id
    this.spec = spec
    this.context = context
    this.inputHash = inputHash
    this.createdAt = createdAt
    this.stdout = keepOutput(spec.resources.maxOutputBytes, room)
    this.stderr = keepOutput(spec.resources.maxOutputBytes, room)
    if (context.stream)
      this.channel = createChannel<EngineEvent>({
        highWaterBytes: STREAM_HIGH_WATER_BYTES,
        onLeave: () => this.stop('cancelled'),
      })
    this.done = new Promise((resolve) => {
      this.#finish = resolve
    })
    this.channel?.push({ type: 'queued', id })
  }

  /** Ends it early, once; after its end it does nothing. */
  stop(reason: StopReason): void {
    if (this.stopReason !== undefined || this.conclusion !== undefined) return
    this.stopReason = reason
    this.channel?.relax(STOPPED_STREAM_MAX_BYTES)
    this.onStop?.(reason)
  }

  started(runtime: string): void {
    this.status = 'running'
    this.runtime = runtime
    this.channel?.push({ type: 'started', id: this.id, runtime })
    this.#wake()
  }

  /** Takes output. A promise: whoever streams is behind, the command should wait. */
  output(type: 'stdout' | 'stderr', data: Buffer): undefined | Promise<void> {
    this[type].add(data)
    this.#wake()
    return this.channel?.push({ type, data }, data.length)
  }

  exited(code: number | null, signal: string | undefined): void {
    this.exit = { type: 'exit', code, ...(signal !== undefined && { signal }) }
    this.channel?.push(this.exit)
  }

  conclude(conclusion: Conclusion, finishedAt: string): void {
    this.conclusion = conclusion
    this.finishedAt = finishedAt
    this.status = 'result' in conclusion ? conclusion.result.status : 'error'
    this.onStop = undefined
    this.channel?.push(lastEvent(conclusion))
    this.channel?.end()
    this.#wake()
  }

  /** Its record says how it ended. */
  recorded(): void {
    this.#finish()
  }

  /**
   * The kept output, then what comes, until the end. Any number may watch: each reads what is kept, at its own pace,
   * and holds nobody up. Without `follow` it ends where it would have to wait.
   */
  async *watch({ signal, follow = true }: WatchOptions = {}): AsyncGenerator<EngineEvent> {
    signal?.throwIfAborted()
    yield { type: 'queued', id: this.id }
    let started = false
    const seen = { stdout: 0, stderr: 0 }
    for (;;) {
      const concluded = this.conclusion
      if (!started && this.runtime !== undefined) {
        started = true
        yield { type: 'started', id: this.id, runtime: this.runtime }
      }
      let any = false
      for (const type of ['stdout', 'stderr'] as const) {
        if (this[type].sizeBytes === seen[type]) continue
        const data = this[type].bytes(seen[type], seen[type] + WATCHER_CHUNK_BYTES)
        seen[type] += data.length
        any = true
        yield { type, data }
        signal?.throwIfAborted()
      }
      if (any) continue
      if (concluded) {
        if (this.exit) yield this.exit
        yield lastEvent(concluded)
        return
      }
      // Something may have come while the reader was busy with what it had.
      if (this.conclusion || this.stdout.sizeBytes + this.stderr.sizeBytes > seen.stdout + seen.stderr) continue
      if (!started && this.runtime !== undefined) continue
      if (!follow) return
      await this.#change(signal)
    }
  }

  #wake(): void {
    if (this.#watchers.length === 0) return
    const watchers = this.#watchers
    this.#watchers = []
    for (const wake of watchers) wake()
  }

  async #change(signal: AbortSignal | undefined): Promise<void> {
    let wake = (): void => {}
    try {
      await new Promise<void>((resolve, reject) => {
        wake = () => (signal?.aborted ? reject(signal.reason) : resolve())
        this.#watchers.push(wake)
        signal?.addEventListener('abort', wake, { once: true })
      })
    } finally {
      signal?.removeEventListener('abort', wake)
      this.#watchers = this.#watchers.filter((other) => other !== wake)
    }
  }
}

export const lastEvent = (conclusion: Conclusion): EngineEvent =>
  'result' in conclusion ? { type: 'result', result: conclusion.result } : { type: 'error', error: conclusion.error }
