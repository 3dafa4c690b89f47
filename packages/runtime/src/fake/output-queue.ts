const WINDOW_BYTES = 262_144

interface Queued<E> {
  event: E
  bytes: number
}

/**
 * The events of one command between the fake sandbox and whoever iterates: at most a window of output waits, then the
 * writer does. It is iterated once.
 */
export class OutputQueue<E extends { type: string }> {
  readonly #events: Queued<E>[] = []
  readonly #discarded = new Set<string>()
  #queuedBytes = 0
  #finished = false
  #error: Error | undefined
  #iterated = false
  #reader: (() => void) | undefined
  readonly #writers = new Set<() => void>()

  /** What is in it, for another reader. */
  copy(): OutputQueue<E> {
    const copy = new OutputQueue<E>()
    copy.#events.push(...this.#events)
    for (const stream of this.#discarded) copy.#discarded.add(stream)
    copy.#queuedBytes = this.#queuedBytes
    copy.#finished = this.#finished
    copy.#error = this.#error
    return copy
  }

  push(event: E, bytes: number): void {
    if (this.#finished) return
    this.#events.push({ event, bytes })
    this.#queuedBytes += bytes
    this.#reader?.()
  }

  async pushOutput(event: E, bytes: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted()
      if (this.#finished || this.#discarded.has(event.type)) return
      if (this.#queuedBytes < WINDOW_BYTES) return this.push(event, bytes)
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#writers.add(resolve)
      const abort = () => resolve()
      signal.addEventListener('abort', abort)
      await promise
      signal.removeEventListener('abort', abort)
      this.#writers.delete(resolve)
    }
  }

  discard(stream: string): void {
    this.#discarded.add(stream)
    this.#wakeWriters()
  }

  /** The last event. */
  finish(event: E): void {
    this.push(event, 0)
    this.#finished = true
  }

  fail(error: Error): void {
    if (this.#finished) return
    this.#finished = true
    this.#error = error
    this.#reader?.()
    this.#wakeWriters()
  }

  async *iterate(abandoned: () => void): AsyncGenerator<E, void, undefined> {
    if (this.#iterated) throw new Error('the events of a command can be iterated once')
    this.#iterated = true
    try {
      for (;;) {
        const next = this.#events.shift()
        if (next) {
          this.#queuedBytes -= next.bytes
          this.#wakeWriters()
          yield next.event
          continue
        }
        if (this.#error) throw this.#error
        if (this.#finished) return
        await new Promise<void>((resolve) => {
          this.#reader = resolve
        })
        this.#reader = undefined
      }
    } finally {
      if (!this.#finished) abandoned()
      this.#finished = true
      this.#events.length = 0
      this.#wakeWriters()
    }
  }

  #wakeWriters(): void {
    for (const wake of [...this.#writers]) wake()
  }
}
