import { Heap, type Heaped } from '../placement/heap.ts'

/** Where virtual time begins: some day in 2026. */
const EPOCH_MS = 1_775_000_000_000

interface Planned extends Heaped {
  readonly at: number
  readonly order: number
  readonly work: () => void
}

const turnIsOver = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/**
 * Time that passes only when nothing is left to do. One piece of work is a step: it runs with everything that follows from it by
 * promises, and then the next begins, by its time and, of equal times, in the order in which it was planned.
 */
export class EventLoop {
  #now = EPOCH_MS
  #planned = 0
  #steps = 0
  readonly #queue = new Heap<Planned>((a, b) => a.at < b.at || (a.at === b.at && a.order < b.order))

  get now(): number {
    return this.#now
  }

  /** Since the beginning, in milliseconds. */
  get elapsedMs(): number {
    return this.#now - EPOCH_MS
  }

  get steps(): number {
    return this.#steps
  }

  /** The answer takes it back. */
  after(ms: number, work: () => void): () => void {
    const planned: Planned = { at: this.#now + Math.max(0, ms), order: this.#planned++, work, heapAt: -1 }
    this.#queue.push(planned)
    return () => this.#queue.delete(planned)
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.after(ms, resolve))
  }

  /** Goes on until `isOver` says so after a step, nothing is planned, or the time is past `untilMs` (`elapsedMs`). */
  async run(untilMs: number, isOver: () => boolean): Promise<void> {
    await turnIsOver()
    for (let next = this.#queue.top; next && next.at - EPOCH_MS <= untilMs && !isOver(); next = this.#queue.top) {
      this.#queue.delete(next)
      this.#now = next.at
      this.#steps++
      next.work()
      await turnIsOver()
    }
  }
}
