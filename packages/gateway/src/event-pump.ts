import type { EngineEvent } from '@bramble/engine'
import { BrambleError, type ExecutionResult, type Problem } from '@bramble/protocol'
import { outputCutter } from './output-pieces.ts'
import type { EventStream, Wrap } from './sse.ts'

export interface PumpOptions {
  readonly requestId: string
  /** Text around each event's JSON: ASCII. */
  readonly wrap?: Wrap
  /** True: when the client goes, the events are still taken, so that the execution reaches its end. */
  readonly outliveClient?: boolean
}

const UNWRAPPED: Wrap = ['', '']

/**
 * Carries the events of one execution onto a stream, at the client's pace, and returns how it ended. Throws `cancelled`
 * when the client goes away.
 */
export const pumpEvents = async (
  events: AsyncIterable<EngineEvent>,
  stream: EventStream,
  options: PumpOptions,
): Promise<{ result: ExecutionResult } | { error: Problem }> => {
  const wrap = options.wrap ?? UNWRAPPED
  const cutters = { stdout: outputCutter(), stderr: outputCutter() }
  const send = (event: EngineEvent) => stream.send(event.type, wrap[0] + JSON.stringify(event) + wrap[1])
  const sendRest = async () => {
    for (const type of ['stdout', 'stderr'] as const) {
      const rest = cutters[type].rest()
      if (rest) await stream.sendOutput(type, rest, wrap)
    }
  }

  for await (const event of events) {
    if (stream.closed && !options.outliveClient)
      throw new BrambleError('cancelled', { detail: 'the client closed the stream' })
    switch (event.type) {
      case 'stdout':
      case 'stderr':
        for (const piece of cutters[event.type].cut(event.data)) {
          const wait = stream.sendOutput(event.type, piece, wrap)
          if (wait) await wait
        }
        break
      case 'queued':
      case 'started':
        await send(event)
        break
      case 'exit':
        await sendRest()
        await send(event)
        break
      case 'result':
        await sendRest()
        await send(event)
        return { result: event.result }
      case 'error': {
        const error = { ...event.error, requestId: options.requestId }
        await send({ type: 'error', error })
        return { error }
      }
      default:
        event satisfies never
    }
  }
  throw new BrambleError('internal', { detail: 'the events of the execution ended before its result' })
}
