/** Runs one after another what has the same key, in the order of the calls. */
export type KeyedLock = <T>(key: string, run: () => Promise<T>) => Promise<T>

export const keyedLock = (): KeyedLock => {
  const tails = new Map<string, Promise<unknown>>()
  return async (key, run) => {
    const before = tails.get(key)
    const mine = before ? before.then(run) : run()
    const tail = mine.catch(() => undefined)
    tails.set(key, tail)
    try {
      return await mine
    } finally {
      if (tails.get(key) === tail) tails.delete(key)
    }
  }
}
