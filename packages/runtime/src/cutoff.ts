/**
 * Ends waits when something else has ended. Of a wait that is over nothing is kept: `Promise.race` with a promise that lives long
 * keeps what every race gave for as long as that does.
 */
export interface Cutoff {
  /** Rejects what waits, and what will. The first time counts. */
  cut(error: unknown): void
  /** What `work` gives, or the error of `cut`, if that comes first. */
  wait<T>(work: Promise<T>): Promise<T>
}

export const cutoff = (): Cutoff => {
  const waiting = new Set<(error: unknown) => void>()
  let over: { error: unknown } | undefined
  return {
    cut(error) {
      if (over) return
      over = { error }
      for (const reject of waiting) reject(error)
      waiting.clear()
    },
    wait: (work) =>
      new Promise((resolve, reject) => {
        waiting.add(reject)
        work.finally(() => waiting.delete(reject)).then(resolve, reject)
        if (over) reject(over.error)
      }),
  }
}
