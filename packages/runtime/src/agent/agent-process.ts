import type { AgentProcess, ProcessEvent, ProcessExit } from './agent.ts'
import { createEventQueue } from './event-queue.ts'
import { byteFrame, creditFrame, FRAME } from './frames.ts'
import { parseExit, parseFailed } from './process-frames.ts'
import { createProcessInput } from './process-input.ts'

/** Bytes of each output stream that may wait on this side for the consumer. */
export const WINDOW_BYTES = 1024 * 1024
/** Credit is given back in portions, so that it costs few frames. */
const CREDIT_PORTION_BYTES = WINDOW_BYTES / 4
const SIGKILL = 9

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

export const createAgentProcess = (deps: ProcessDeps): AgentProcess & ProcessSink => {
  const { channel } = deps
  const credit = { stdout: WINDOW_BYTES, stderr: WINDOW_BYTES }
  const taken = { stdout: 0, stderr: 0 }
  const discarded = { stdout: false, stderr: false }
  let started = false
  let iterated = false

  const giveBack = (stream: StreamName, bytes: number): void => {
    taken[stream] += bytes
    if (!input.open || discarded[stream] || taken[stream] < CREDIT_PORTION_BYTES) return
    credit[stream] += taken[stream]
    deps.send(creditFrame(channel, stream === 'stdout' ? 1 : 2, taken[stream]))
    taken[stream] = 0
  }

  const queue = createEventQueue((event) => {
    if (event.type === 'stdout' || event.type === 'stderr') giveBack(event.type, event.data.length)
  })

  const input = createProcessInput(deps)

  const close = (error?: Error): void => {
    input.close(error)
    deps.onClosed()
  }

  const finish = (exit: ProcessExit): void => {
    close()
    queue.push({ type: 'exit', ...exit })
    queue.end()
  }

  const onOutput = (stream: StreamName, data: Buffer): void => {
    if (!started) throw new Error('output before STARTED')
    if (data.length === 0) throw new Error('an empty output frame')
    credit[stream] -= data.length
    if (credit[stream] < 0) throw new Error(`${-credit[stream]} bytes of ${stream} past the credit`)
    // A copy: the chunk that it came in is read into again.
    if (!discarded[stream]) queue.push({ type: stream, data: Buffer.from(data) })
  }

  const discard = (stream: StreamName): void => {
    if (!input.open || discarded[stream]) return
    discarded[stream] = true
    deps.send(byteFrame(FRAME.discard, channel, stream === 'stdout' ? 1 : 2))
  }

  const abandon = (): void => {
    queue.clear()
    if (!input.open) return
    input.kill(SIGKILL)
    for (const stream of STREAMS) discard(stream)
  }

  return {
    onFrame: (type, payload) => {
      if (type === FRAME.stdout) onOutput('stdout', payload)
      else if (type === FRAME.stderr) onOutput('stderr', payload)
      else if (type === FRAME.stdinCredit) input.onCredit(payload.readUInt32LE(0))
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
      close(error)
      queue.end(error)
    },
    write: input.write,
    end: input.end,
    kill: input.kill,
    resize: input.resize,
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
