import type { SocketEnd } from './socket.ts'

export interface InboxOptions {
  /** Called when more waits than should; there where the platform can stop reading. */
  readonly pause?: () => void
  readonly resume?: () => void
  /** How much may wait before `pause`. */
  readonly highWaterBytes: number
}

/** What has arrived on a socket and waits to be taken. */
export interface Inbox {
  readonly end: SocketEnd | undefined
  readonly waitingBytes: number
  push(message: string | Uint8Array): void
  /** Nothing comes after this. What waits can still be taken. */
  finish(end: SocketEnd): void
  next(): Promise<string | Uint8Array | undefined>
}

export const inbox = ({ pause, resume, highWaterBytes }: InboxOptions): Inbox => {
  let waiting: (string | Uint8Array)[] = []
  let at = 0
  let bytes = 0
  let paused = false
  let end: SocketEnd | undefined
  let taker: ((message: string | Uint8Array | undefined) => void) | undefined

  const take = (): string | Uint8Array | undefined => {
    const message = waiting[at]
    if (message === undefined) return undefined
    at++
    if (at === waiting.length) {
      waiting = []
      at = 0
    }
    bytes -= message.length
    if (paused && bytes <= highWaterBytes / 2) {
      paused = false
      resume?.()
    }
    return message
  }

  return {
    get end() {
      return end
    },
    get waitingBytes() {
      return bytes
    },
    push(message) {
      if (end !== undefined) return
      if (taker !== undefined) {
        const give = taker
        taker = undefined
        give(message)
        return
      }
      waiting.push(message)
      bytes += message.length
      if (!paused && bytes > highWaterBytes) {
        paused = true
        pause?.()
      }
    },
    finish(how) {
      end ??= how
      taker?.(undefined)
      taker = undefined
    },
    next() {
      const message = take()
      if (message !== undefined || end !== undefined) return Promise.resolve(message)
      return new Promise((resolve) => {
        taker = resolve
      })
    },
  }
}
