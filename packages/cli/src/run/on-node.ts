import type { Bramble } from '@bramble/sdk'
import type { LiveRun } from './live-run.ts'

/** How long a node may take to tell the end of a command that it was asked to cancel. */
const cancelGraceMs = 5_000

/** Runs on a node, over HTTP. */
export const onNode = (bramble: Bramble): LiveRun =>
  async function* (spec, signal) {
    const stream = bramble.stream(spec)
    let timer: NodeJS.Timeout | undefined
    const giveUp = (): void => stream.cancel(signal.reason)
    const onAbort = (): void => {
      // Without an id the node has not answered yet: closing the connection is what cancels it.
      if (stream.id === undefined) {
        giveUp()
        return
      }
      timer = setTimeout(giveUp, cancelGraceMs)
      bramble.executions.cancel(stream.id).catch(giveUp)
    }
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    try {
      for await (const event of stream) {
        if (event.type === 'stdout' || event.type === 'stderr')
          yield {
            type: event.type,
            data: event.encoding === 'base64' ? Buffer.from(event.data, 'base64') : event.data,
          }
        else if (event.type === 'result') yield event
      }
    } finally {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    }
  }
