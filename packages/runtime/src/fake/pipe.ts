import type { World } from './world.ts'

/** What the commands of a fake sandbox read from. `undefined` is the end of file. */
export interface Source {
  /** The one that stands for it in a copy of the sandbox. */
  copy(world: World): Source
  read(signal: AbortSignal): Promise<Buffer | undefined>
}

/** What they write to. Resolves when there is room for more; throws `BrokenPipe` when nobody reads any more. */
export interface Sink {
  copy(world: World): Sink
  write(data: Buffer, signal: AbortSignal): Promise<void>
}

export class BrokenPipe extends Error {
  override readonly name = 'BrokenPipe'
}

/** Waits for `attempt` to give a value, trying again whenever `wakers` is woken; rejects with the signal's reason. */
const waitFor = <T>(
  wakers: Set<() => void>,
  signal: AbortSignal,
  attempt: () => { value: T } | undefined,
): Promise<T> =>
  new Promise((resolve, reject) => {
    const stop = () => {
      wakers.delete(tryNow)
      signal.removeEventListener('abort', abort)
    }
    const abort = () => {
      stop()
      reject(signal.reason)
    }
    const tryNow = () => {
      try {
        const found = attempt()
        if (!found) return false
        stop()
        resolve(found.value)
      } catch (error) {
        stop()
        reject(error)
      }
      return true
    }
    if (signal.aborted) return reject(signal.reason)
    if (tryNow()) return
    wakers.add(tryNow)
    signal.addEventListener('abort', abort)
  })

/** A bounded queue of bytes with two ends, like pipe(7): 64 KiB, then the writer waits. */
export class Pipe implements Source, Sink {
  readonly #capacityBytes: number
  readonly #chunks: Buffer[] = []
  readonly #wakers = new Set<() => void>()
  #queuedBytes = 0
  #ended = false
  #broken = false

  constructor(capacityBytes = 65_536) {
    this.#capacityBytes = capacityBytes
  }

  /** No more will be written: readers get the rest, then the end of file. */
  end(): void {
    this.#ended = true
    this.#wake()
  }

  copy(world: World): Pipe {
    return world.once(this, () => {
      const copy = new Pipe(this.#capacityBytes)
      copy.#chunks.push(...this.#chunks)
      copy.#queuedBytes = this.#queuedBytes
      copy.#ended = this.#ended
      copy.#broken = this.#broken
      return copy
    })
  }

  /** Nobody will read: writers get `BrokenPipe`. */
  break(): void {
    this.#broken = true
    this.#chunks.length = 0
    this.#wake()
  }

  read(signal: AbortSignal): Promise<Buffer | undefined> {
    return waitFor(this.#wakers, signal, () => {
      const chunk = this.#chunks.shift()
      if (!chunk) return this.#ended || this.#broken ? { value: undefined } : undefined
      this.#queuedBytes -= chunk.length
      this.#wake()
      return { value: chunk }
    })
  }

  write(data: Buffer, signal: AbortSignal): Promise<void> {
    return waitFor(this.#wakers, signal, () => {
      if (this.#broken || this.#ended) throw new BrokenPipe('the other end of the pipe is closed')
      if (data.length > 0 && this.#queuedBytes >= this.#capacityBytes) return undefined
      if (data.length > 0) this.#chunks.push(data)
      this.#queuedBytes += data.length
      this.#wake()
      return { value: undefined }
    })
  }

  #wake(): void {
    // Later, so that an attempt never runs inside another one.
    if (this.#wakers.size === 0) return
    queueMicrotask(() => {
      for (const tryNow of [...this.#wakers]) if (this.#wakers.has(tryNow)) tryNow()
    })
  }
}

export const emptySource: Source = { read: async () => undefined, copy: () => emptySource }
export const nullSink: Sink = { write: async () => undefined, copy: () => nullSink }
