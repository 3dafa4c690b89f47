/**
 * A bounded hand-over from one writer to one reader. `push` answers with a promise once more than `highWaterBytes` wait
 * to be read: the writer awaits it, and so goes at the reader's pace.
 */
export interface Channel<T> extends AsyncIterable<T> {
  push(value: T, bytes?: number): undefined | Promise<void>
  /** No more is pushed; the reader gets what is left, then the end. */
  end(): void
  /**
   * Lets a waiting writer go on and makes it wait no more: whoever reads may have stopped. Past `maxBytes` that wait to
   * be read, `push` drops what has a size; what has none still passes.
   */
  relax(maxBytes: number): void
  readonly left: boolean
}

export interface ChannelOptions {
  readonly highWaterBytes: number
  /** The reader left its loop before the end. */
  readonly onLeave?: () => void
}

export const createChannel = <T>({ highWaterBytes, onLeave }: ChannelOptions): Channel<T> => {
  let waiting: { value: T; bytes: number }[] = []
  let batch: { value: T; bytes: number }[] = []
  let next = 0
  let heldBytes = 0
  let ended = false
  let left = false
  let taken = false
  let dropPastBytes = Number.POSITIVE_INFINITY
  let relaxed = false
  let wakeReader: (() => void) | undefined
  let wakeWriter: (() => void) | undefined
  let writerWaits: Promise<void> | undefined

  const releaseWriter = (): void => {
    wakeWriter?.()
    wakeWriter = undefined
    writerWaits = undefined
  }
  const notifyReader = (): void => {
    wakeReader?.()
    wakeReader = undefined
  }

  async function* read(): AsyncGenerator<T> {
    try {
      for (;;) {
        if (next === batch.length) {
          batch = waiting
          waiting = []
          next = 0
          if (batch.length === 0) {
            if (ended) return
            await new Promise<void>((resolve) => {
              wakeReader = resolve
            })
            continue
          }
        }
        const item = batch[next++]
        if (!item) continue
        heldBytes -= item.bytes
        if (heldBytes <= highWaterBytes) releaseWriter()
        yield item.value
      }
    } finally {
      left = true
      waiting = []
      batch = []
      next = 0
      releaseWriter()
      if (!ended) onLeave?.()
    }
  }

  return {
    push(value, bytes = 0) {
      if (left || ended || (bytes > 0 && heldBytes + bytes > dropPastBytes)) return undefined
      heldBytes += bytes
      waiting.push({ value, bytes })
      notifyReader()
      if (relaxed || heldBytes <= highWaterBytes) return undefined
      writerWaits ??= new Promise<void>((resolve) => {
        wakeWriter = resolve
      })
      return writerWaits
    },
    end() {
      ended = true
      notifyReader()
      releaseWriter()
    },
    relax(maxBytes) {
      relaxed = true
      dropPastBytes = maxBytes
      releaseWriter()
    },
    get left() {
      return left
    },
    [Symbol.asyncIterator]() {
      if (taken) throw new TypeError('this can be iterated once')
      taken = true
      return read()
    },
  }
}
