import { BrambleError } from '@bramble/protocol'

/** What a store is doing: waited for by its `close`, and refused from then on. */
export interface Changes {
  /** Throws `shutting_down` once `end` was called. */
  run<T>(change: () => Promise<T>): Promise<T>
  /** Nothing more begins. Resolves when what has begun is over, however it ended. */
  end(): Promise<void>
}

/** `store` names it in errors. */
export const openChanges = (store: string): Changes => {
  const running = new Set<Promise<unknown>>()
  let ended = false
  return {
    run: async (change) => {
      if (ended) throw new BrambleError('shutting_down', { detail: `the store ${store} is closed` })
      const begun = change()
      running.add(begun)
      try {
        return await begun
      } finally {
        running.delete(begun)
      }
    },
    end: async () => {
      ended = true
      await Promise.allSettled(running)
    },
  }
}
