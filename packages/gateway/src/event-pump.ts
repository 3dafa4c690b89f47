import type { EngineEvent } from '@bramble/engine'
import type { EventStream } from '@bramble/http'
import { BrambleError, type ExecResult, type ExecutionResult, type Problem } from '@bramble/protocol'
import { sendOutput, type Wrap } from './output-events.ts'
import { outputCutter } from './output-pieces.ts'

/** What a command in an instance says, beside what an execution does. */
export type InstanceEvent =
  | { readonly type: 'started'; readonly pid: number }
  | { readonly type: 'result'; readonly result: ExecResult }

/** Writes the events of one command onto a stream. Wait for each, and the command goes at the client's pace. */
export interface EventSender {
  (event: EngineEvent | InstanceEvent): Promise<void>
  /** Sends the half characters that wait for their rest. */
  flush(): Promise<void>
}

const UNWRAPPED: Wrap = ['', '']

/** `wrap` stands around each event's JSON, for streams of several executions. */
export const eventSender = (stream: EventStream, wrap: Wrap = UNWRAPPED): EventSender => {
  const cutters = { stdout: outputCutter(), stderr: outputCutter() }
  const flush = async (): Promise<void> => {
    for (const type of ['stdout', 'stderr'] as const) {
      const rest = cutters[type].rest()
      if (rest) await sendOutput(stream, type, rest, wrap)
    }
  }
  const send = async (event: EngineEvent | InstanceEvent): Promise<void> => {
    if (event.type === 'stdout' || event.type === 'stderr') {
      for (const piece of cutters[event.type].cut(event.data)) {
        const wait = sendOutput(stream, event.type, piece, wrap)
        if (wait) await wait
      }
      return
    }
    // What follows the output: half a character will not become a whole one any more.
    if (event.type === 'exit' || event.type === 'result') await flush()
    await stream.send(event.type, wrap[0] + JSON.stringify(event) + wrap[1])
  }
  return Object.assign(send, { flush })
}

export interface PumpOptions {
  readonly requestId: string
  /** True: when the client goes, the events are still taken, so that the execution reaches its end. */
  readonly outliveClient?: boolean
}

/**
 * Carries the events of one execution onto a stream, and returns how it ended; undefined: the events did not say. Throws
 * `cancelled` when the client goes.
 */
export const pumpEvents = async (
  events: AsyncIterable<EngineEvent>,
  stream: EventStream,
  { requestId, outliveClient }: PumpOptions,
): Promise<{ result: ExecutionResult } | { error: Problem } | undefined> => {
  const send = eventSender(stream)
  for await (const event of events) {
    if (stream.closed && !outliveClient) throw new BrambleError('cancelled', { detail: 'the client closed the stream' })
    if (event.type === 'error') {
      const error = { ...event.error, requestId }
      await send({ type: 'error', error })
      return { error }
    }
    await send(event)
    if (event.type === 'result') return { result: event.result }
  }
  await send.flush()
  return undefined
}
