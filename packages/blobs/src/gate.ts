/** Lets in so many at once; the others wait their turn. For work that waits for nobody else at the gate. */
export type Gate = <T>(run: () => Promise<T>) => Promise<T>

export const gate = (max: number): Gate => {
  let running = 0
  const waiting: (() => void)[] = []
  return async (run) => {
    if (running < max) running++
    // The one that leaves hands its place on.
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      return await run()
    } finally {
      const next = waiting.shift()
      if (next) next()
      else running--
    }
  }
}
