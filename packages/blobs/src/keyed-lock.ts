/** Runs one after another what has the same key, in the order of the calls. */
export type KeyedLock = <T>(key: string, run: () => Promise<T>) => Promise<T>

export const keyedLock = (): KeyedLock => {
  const tails = new Map<string, Promise<unknown>>()
  return async (key, run) => {
    // Never within the call: what the caller does next is done before it runs.
    const mine = (tails.get(key) ?? Promise.resolve()).then(run)
    const tail = mine.catch(() => undefined)
    tails.set(key, tail)
    try {
      return await mine
    } finally {
      if (tails.get(key) === tail) tails.delete(key)
    }
  }
}
