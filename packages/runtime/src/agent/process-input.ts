import type { ProcessInput } from './agent.ts'
import { byteFrame, dataFrame, emptyFrame, FRAME, resizeFrame } from './frames.ts'

/** What the agent takes of standard input before it has to grant more. */
export const STDIN_WINDOW_BYTES = 64 * 1024
const SIGTERM = 15

export interface ProcessInputDeps {
  readonly channel: number
  send(frame: Buffer): void
  /** What the host may send at once; a whole window where the command is new. */
  readonly creditBytes?: number
}

/** The host's half of a channel: standard input at the agent's pace, signals, the terminal's size. */
export interface ChannelInput extends ProcessInput {
  /** False once the channel is closed: nothing is sent any more. */
  readonly open: boolean
  /** Sends all of it, where there is credit for it and nothing waits before it; else nothing. */
  writeNow(data: Uint8Array): boolean
  /** The agent granted more. Throws `Error` where it may not. */
  onCredit(bytes: number): void
  /** The channel is over; writes that wait end, or fail with `error`. */
  close(error?: Error): void
}

export const createProcessInput = ({ channel, send, creditBytes }: ProcessInputDeps): ChannelInput => {
  let open = true
  let failure: Error | undefined
  let credit = creditBytes ?? STDIN_WINDOW_BYTES
  let creditArrived: (() => void) | undefined
  // Writes wait in line for credit, which only the agent gives.
  let line: Promise<void> | undefined

  /** Sends what there is credit for; the rest is still to be sent. */
  const sendSome = (data: Uint8Array): Uint8Array => {
    const piece = data.subarray(0, credit)
    credit -= piece.length
    if (piece.length > 0) send(dataFrame(FRAME.stdin, channel, piece))
    return data.subarray(piece.length)
  }

  const feed = async (data: Uint8Array): Promise<void> => {
    let rest = data
    while (rest.length > 0) {
      if (failure !== undefined) throw failure
      if (!open) return
      if (credit > 0) rest = sendSome(rest)
      else {
        await new Promise<void>((resolve) => {
          creditArrived = resolve
        })
        creditArrived = undefined
      }
    }
  }

  const inLine = (work: () => Promise<void>): Promise<void> => {
    const done = (line ?? Promise.resolve()).then(work)
    const settled = done
      .catch(() => {})
      .then(() => {
        if (line === settled) line = undefined
      })
    line = settled
    return done
  }

  return {
    get open() {
      return open
    },
    writeNow: (data) => {
      if (!open || line !== undefined || data.length > credit) return false
      sendSome(data)
      return true
    },
    write: (data) => {
      if (failure !== undefined) return Promise.reject(failure)
      if (!open) return Promise.resolve()
      // The usual case needs no turn of its own.
      const rest = line === undefined ? sendSome(data) : data
      return rest.length === 0 && line === undefined ? Promise.resolve() : inLine(() => feed(rest))
    },
    end: () => {
      const end = async (): Promise<void> => {
        if (open) send(emptyFrame(FRAME.stdinEof, channel))
      }
      if (line === undefined) void end()
      else inLine(end).catch(() => {})
    },
    kill: (signal = SIGTERM) => {
      if (!Number.isInteger(signal) || signal < 1 || signal > 64) throw new TypeError(`${signal} is not a signal`)
      if (open) send(byteFrame(FRAME.signal, channel, signal))
    },
    resize: ({ cols, rows }) => {
      if (open) send(resizeFrame(channel, cols, rows))
    },
    onCredit: (bytes) => {
      credit += bytes
      if (bytes === 0 || credit > STDIN_WINDOW_BYTES) throw new Error(`a STDIN_CREDIT of ${bytes} bytes`)
      creditArrived?.()
    },
    close: (error) => {
      open = false
      failure = error
      creditArrived?.()
    },
  }
}
