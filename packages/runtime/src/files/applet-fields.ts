import { BrambleError } from '@bramble/protocol'
import type { Agent, ExecRequest, ProcessExit } from '../agent/agent.ts'
import { cutoff } from '../cutoff.ts'

/** What an applet says on standard error is one short line; more is not kept. */
const maxMessageBytes = 1024

export interface FieldsOptions extends Pick<ExecRequest, 'argv' | 'user' | 'transient'> {
  readonly signal?: AbortSignal | undefined
  /** A longer field is no applet's: `agent_protocol`. */
  readonly maxFieldBytes: number
  /** The error of an applet that exited with `code` after saying `message`; 0 ends the fields. */
  failed(code: number, message: string): BrambleError
}

/**
 * The NUL-terminated fields that an applet says, as it says them: it is read no faster than they are taken. Leaving the
 * loop, or an abort (which throws the reason at once), kills the applet.
 */
export async function* appletFields(agent: Agent, options: FieldsOptions): AsyncGenerator<Buffer, void, undefined> {
  const { argv, user, transient, signal, maxFieldBytes, failed } = options
  signal?.throwIfAborted()
  const command = agent.exec({ argv, user, transient })
  const { cut, wait } = cutoff()
  const abort = (): void => cut(signal?.reason)
  signal?.addEventListener('abort', abort)
  const events = command[Symbol.asyncIterator]()
  let rest: Buffer = Buffer.alloc(0)
  let message = ''
  try {
    for (;;) {
      const { done, value: event } = await wait(events.next())
      if (done) throw new BrambleError('agent_protocol', { detail: 'a command ended without an exit' })
      if (event.type === 'stdout') {
        const bytes = rest.length === 0 ? event.data : Buffer.concat([rest, event.data])
        let at = 0
        for (let end = bytes.indexOf(0); end >= 0; end = bytes.indexOf(0, at)) {
          if (end - at > maxFieldBytes) throw tooLong(maxFieldBytes)
          yield bytes.subarray(at, end)
          // The consumer may have been away for long.
          signal?.throwIfAborted()
          at = end + 1
        }
        rest = bytes.subarray(at)
        if (rest.length > maxFieldBytes) throw tooLong(maxFieldBytes)
      } else if (event.type === 'stderr') message = (message + event.data.toString('utf8')).slice(0, maxMessageBytes)
      else if (event.type === 'exit') {
        if (event.kind === 'exited' && event.code === 0) return
        throw event.kind === 'exited' ? failed(event.code, message.trim()) : ended(event)
      }
    }
  } finally {
    signal?.removeEventListener('abort', abort)
    command.kill(9)
    await events.return?.()
  }
}

const tooLong = (maxFieldBytes: number): BrambleError =>
  new BrambleError('agent_protocol', { detail: `a field of more than ${maxFieldBytes} bytes` })

const ended = (exit: Exclude<ProcessExit, { kind: 'exited' }>): BrambleError => {
  const how =
    exit.kind === 'failed' ? `it did not start: ${exit.message} (${exit.step})` : `signal ${exit.signal} ended it`
  return new BrambleError('sandbox_failed', { detail: `a program of the agent failed in the sandbox: ${how}` })
}
