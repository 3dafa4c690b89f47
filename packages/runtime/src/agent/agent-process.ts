import type { AgentProcess, FailedStep, ProcessEvent, ProcessExit } from './agent.ts'
import { createEventQueue } from './event-queue.ts'
import { byteFrame, creditFrame, dataFrame, emptyFrame, FRAME, resizeFrame } from './frames.ts'

/** Bytes of each output stream that may wait on this side for the consumer. */
export const WINDOW_BYTES = 1024 * 1024
/** Credit is given back in portions, so that it costs few frames. */
const CREDIT_PORTION_BYTES = WINDOW_BYTES / 4
/** What the agent takes of standard input before it has to grant more. */
const STDIN_WINDOW_BYTES = 64 * 1024
const SIGTERM = 15
const SIGKILL = 9

const STEPS: readonly (FailedStep | undefined)[] = [undefined, 'fork', 'user', 'workdir', 'pipes', 'exec']

const STREAMS = ['stdout', 'stderr'] as const
type StreamName = (typeof STREAMS)[number]

/** The connection's end of a command: what the agent said about it. Each throws `Error` where the agent may not say so. */
export interface ProcessSink {
  onFrame(type: number, payload: Buffer): void
  /** The connection is over. */
  fail(error: Error): void
}

export interface ProcessDeps {
  readonly channel: number
  send(frame: Buffer): void
  /** The channel is closed: no frame of it may come any more. */
  onClosed(): void
}

const parseExit = (payload: Buffer): ProcessExit => {
  const rusage = {
    userMicros: Number(payload.readBigUInt64LE(4)),
    systemMicros: Number(payload.readBigUInt64LE(12)),
    peakResidentBytes: Number(payload.readBigUInt64LE(20)),
  }
  const [kind, value] = [payload.readUInt8(0), payload.readUInt8(1)]
  if (kind === 0) return { kind: 'exited', code: value, rusage }
  if (kind === 1 && value >= 1 && value <= 64) return { kind: 'signalled', signal: value, rusage }
  throw new Error(`an EXIT of kind ${kind} with ${value}`)
}

const parseFailed = (payload: Buffer): ProcessExit => {
  const step = STEPS[payload.readUInt8(4)]
  if (step === undefined) throw new Error('a FAILED with an unknown step')
  return { kind: 'failed', errno: payload.readUInt32LE(0), step, message: payload.toString('utf8', 5) }
}

export const createAgentProcess = (deps: ProcessDeps): AgentProcess & ProcessSink => {
  const { channel } = deps
  const credit = { stdout: WINDOW_BYTES, stderr: WINDOW_BYTES }
  const taken = { stdout: 0, stderr: 0 }
  const discarded = { stdout: false, stderr: false }
  let started = false
  let open = true
  let failure: Error | undefined
  let iterated = false

  const giveBack = (stream: StreamName, bytes: number): void => {
    taken[stream] += bytes
    if (!open || discarded[stream] || taken[stream] < CREDIT_PORTION_BYTES) return
    credit[stream] += taken[stream]
    deps.send(creditFrame(channel, stream === 'stdout' ? 1 : 2, taken[stream]))
    taken[stream] = 0
  }

  const queue = createEventQueue((event) => {
    if (event.type === 'stdout' || event.type === 'stderr') giveBack(event.type, event.data.length)
  })

  // Standard input: writes wait in line for credit, which only the agent gives.
  let stdinCredit = STDIN_WINDOW_BYTES
  let creditArrived: (() => void) | undefined
  let line: Promise<void> = Promise.resolve()

  const close = (): void => {
    open = false
    creditArrived?.()
    deps.onClosed()
  }

  const finish = (exit: ProcessExit): void => {
    close()
    queue.push({ type: 'exit', ...exit })
    queue.end()
  }

  const onOutput = (stream: StreamName, data: Buffer): void => {
    if (!started) throw new Error('output before STARTED')
    credit[stream] -= data.length
    if (credit[stream] < 0) throw new Error(`${-credit[stream]} bytes of ${stream} past the credit`)
    if (!discarded[stream]) queue.push({ type: stream, data })
  }

  const onStdinCredit = (bytes: number): void => {
    stdinCredit += bytes
    if (bytes === 0 || stdinCredit > STDIN_WINDOW_BYTES) throw new Error(`a STDIN_CREDIT of ${bytes} bytes`)
    creditArrived?.()
  }

  const feed = async (data: Uint8Array): Promise<void> => {
    let rest = data
    while (rest.length > 0) {
      if (failure !== undefined) throw failure
      if (!open) return
      if (stdinCredit === 0) {
        await new Promise<void>((resolve) => {
          creditArrived = resolve
        })
        creditArrived = undefined
        continue
      }
      const piece = rest.subarray(0, stdinCredit)
      stdinCredit -= piece.length
      deps.send(dataFrame(FRAME.stdin, channel, piece))
      rest = rest.subarray(piece.length)
    }
  }

  const kill = (signal = SIGTERM): void => {
    if (!Number.isInteger(signal) || signal < 1 || signal > 64) throw new TypeError(`${signal} is not a signal`)
    if (open) deps.send(byteFrame(FRAME.signal, channel, signal))
  }

  const discard = (stream: StreamName): void => {
    if (!open || discarded[stream]) return
    discarded[stream] = true
    deps.send(byteFrame(FRAME.discard, channel, stream === 'stdout' ? 1 : 2))
  }

  const abandon = (): void => {
    queue.clear()
    if (!open) return
    kill(SIGKILL)
    for (const stream of STREAMS) discard(stream)
  }

  return {
    onFrame: (type, payload) => {
      if (type === FRAME.stdout) onOutput('stdout', payload)
      else if (type === FRAME.stderr) onOutput('stderr', payload)
      else if (type === FRAME.stdinCredit) onStdinCredit(payload.readUInt32LE(0))
      else if (type === FRAME.started) {
        if (started) throw new Error('a second STARTED')
        started = true
        queue.push({ type: 'started', pid: payload.readUInt32LE(0) })
      } else if (type === FRAME.exit) {
        if (!started) throw new Error('EXIT before STARTED')
        finish(parseExit(payload))
      } else if (type === FRAME.failed) {
        if (started) throw new Error('FAILED after STARTED')
        finish(parseFailed(payload))
      } else throw new Error(`a frame of type 0x${type.toString(16)} on a command's channel`)
    },
    fail: (error) => {
      failure = error
      close()
      queue.end(error)
    },
    write: (data) => {
      const fed = line.then(() => feed(data))
      line = fed.catch(() => {})
      return fed
    },
    end: () => {
      line = line.then(() => {
        if (open) deps.send(emptyFrame(FRAME.stdinEof, channel))
      })
    },
    kill,
    resize: ({ cols, rows }) => {
      if (open) deps.send(resizeFrame(channel, cols, rows))
    },
    discard,
    [Symbol.asyncIterator]: (): AsyncIterator<ProcessEvent> => {
      if (iterated) throw new TypeError('a command is iterated once')
      iterated = true
      return {
        next: queue.next,
        return: () => {
          abandon()
          return Promise.resolve({ done: true, value: undefined })
        },
      }
    },
  }
}
