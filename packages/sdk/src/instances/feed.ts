import { SDK_LIMITS } from '../limits.ts'

/**
 * Items on their way to one reader. More than `maxUnreadBytes` of them, and `push` says when to go on. A reader that leaves,
 * and `drop`, let everything pass from then on.
 */
export interface Feed<T> extends AsyncIterable<T> {
  /** Resolves when the reader has caught up; undefined: at once. */
  push(item: T, bytes: number): Promise<void> | undefined
  /** The reader gets what waits, then the end, or the error. */
  end(error?: unknown): void
  /** Nobody will read. */
  drop(): void
  /** Whether somebody reads, or has read. */
  readonly taken: boolean
}

export const feed = <T>(options: { onLeave?: () => void; maxUnreadBytes?: number } = {}): Feed<T> => {
  const { onLeave, maxUnreadBytes = SDK_LIMITS.maxUnreadBytes } = options
  let items: { item: T; bytes: number }[] = []
  let unread = 0
  let state: 'open' | 'ended' | 'dropped' = 'open'
  let failure: unknown
  let taken = false
  let reader: PromiseWithResolvers<void> | undefined
  let room: PromiseWithResolvers<void> | undefined

  const wake = (): void => {
    reader?.resolve()
    reader = undefined
  }
  const makeRoom = (): void => {
    room?.resolve()
    room = undefined
  }
  const drop = (): void => {
    if (state === 'open') state = 'dropped'
    items = []
    unread = 0
    makeRoom()
    wake()
  }

  async function* read(): AsyncGenerator<T, void, undefined> {
    try {
      for (;;) {
        const batch = items
        items = []
        for (const { item, bytes } of batch) {
          unread -= bytes
          if (unread <= maxUnreadBytes / 2) makeRoom()
          yield item
        }
        if (items.length > 0) continue
        if (state !== 'open') {
          if (failure !== undefined) throw failure
          return
        }
        reader = Promise.withResolvers()
        await reader.promise
      }
    } finally {
      drop()
      onLeave?.()
    }
  }

  return {
    get taken() {
      return taken
    },
    push(item, bytes) {
      if (state !== 'open') return undefined
      items.push({ item, bytes })
      unread += bytes
      wake()
      if (unread <= maxUnreadBytes) return undefined
      room ??= Promise.withResolvers()
      return room.promise
    },
    end(error) {
      if (state !== 'open') return
      state = 'ended'
      failure = error
      makeRoom()
      wake()
    },
    drop,
    [Symbol.asyncIterator]() {
      if (taken) throw new TypeError('this is read once')
      taken = true
      return read()
    },
  }
}
