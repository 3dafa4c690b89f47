import type { Journal } from '../store/journal.ts'

/**
 * What is let out once it is durable: answers, leases, cancellations, events. In the order in which it was put in; all that
 * is put in within one turn waits for one write.
 */
export interface Outbox {
  put(work: () => void): void
  /** Resolves when everything noted before the call is durable, after what was put in before it was let out. */
  durable(): Promise<void>
}

export const openOutbox = (journal: Journal, fail: (error: unknown) => void): Outbox => {
  let waiting: { works: (() => void)[]; done: Promise<void> } | undefined
  const gather = () => {
    if (waiting) return waiting
    const works: (() => void)[] = []
    const done = Promise.resolve()
      .then(() => {
        waiting = undefined
        return journal.durable()
      })
      .then(
        () => {
          for (const work of works) work()
        },
        (error: unknown) => {
          fail(error)
          throw error
        },
      )
    // Those who wait are told; nobody else need be.
    done.catch(() => {})
    waiting = { works, done }
    return waiting
  }
  return {
    put: (work) => {
      gather().works.push(work)
    },
    durable: () => gather().done,
  }
}
