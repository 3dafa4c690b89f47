import { parseJson } from '@bramble/http'
import { BrambleError, parse, ptyControlSchema, type ptyQuerySchema, streamCommandSchema } from '@bramble/protocol'
import type { z } from 'zod'
import { LOGIN_SHELL } from '../login-shell.ts'
import {
  closeCodeOf,
  errorMessage,
  errorText,
  type LiveCall,
  type LiveConnection,
  resumeThen,
  untilClosed,
} from './live-call.ts'
import { CLOSE, type LiveSocket } from './live-socket.ts'
import { pendingInput } from './pending-input.ts'
import { newSessionId, type PtySessions } from './pty-sessions.ts'
import { endOf, signalNumber } from './stream-writer.ts'

type PtyCall = LiveCall<z.output<typeof ptyQuerySchema>>
type Command = ReturnType<PtyCall['lease']['stream']['start']>

/**
 * A terminal in an instance (`protocol/src/stream.ts`): of a new command, or with `session` one that runs. Throws `not_found`
 * for a session that is over.
 */
export const preparePty = (call: PtyCall, sessions: PtySessions): LiveConnection => {
  const { lease, query } = call
  const known = query.session === undefined ? undefined : lease.stream.commands.get(query.session)
  if (query.session !== undefined && !known?.pty)
    throw new BrambleError('not_found', { detail: `no terminal \`${query.session}\` runs` })
  sessions.adopt(lease)
  return { run: (socket) => runPty(call, sessions, socket) }
}

const runPty = async (call: PtyCall, sessions: PtySessions, socket: LiveSocket): Promise<void> => {
  const { lease, query } = call
  const { stream } = lease
  const over = new AbortController()
  socket.signal.addEventListener('abort', () => over.abort(), { once: true })
  const { signal } = over
  const fail = (error: unknown): void => {
    void socket.send(errorMessage(error))
    socket.close(closeCodeOf(error), error instanceof BrambleError ? error.code : 'internal')
  }
  const since = query.session === undefined ? stream.seq : stream.firstSeq - 1
  const { session } = query
  const command = session === undefined ? tryStart(call, fail) : stream.commands.get(session)
  // Given up on, or ended while the client was answered.
  if (!command) return fail(new BrambleError('not_found', { detail: 'the terminal has ended' }))
  const id = command.name
  let paused = false
  const onState = (): void => {
    call.context.engine.instances.get(lease.id, lease.tenant).then(
      ({ status }) => {
        paused = status === 'paused'
      },
      // It is gone: `ended` tells.
      () => {},
    )
  }
  stream.events.on('state', onState)
  sessions.join(lease, id)
  try {
    void socket.send(JSON.stringify({ type: 'session', id }))
    if (session !== undefined) command.resize({ cols: query.cols, rows: query.rows })
    const perform = clientOf(call, command, socket)
    socket.receive((data, binary) => {
      if (!paused) return perform(data, binary)
      resumeThen(call, socket, () => perform(data, binary)).catch((error: unknown) => socket.send(errorMessage(error)))
    })
    const follow = async (): Promise<void> => {
      try {
        for await (const entry of stream.read({ since, only: id, signal, onCutOff: fail })) {
          if (!('event' in entry)) continue
          const { event } = entry
          if (event.type === 'stdout' || event.type === 'stderr') {
            const wait = socket.send(event.data, { binary: true })
            if (wait) await wait
          } else if (event.type === 'exit') {
            void socket.send(JSON.stringify({ type: 'exit', ...endOf(event) }))
            return socket.close(CLOSE.normal, 'the command ended')
          }
        }
      } catch (error) {
        if (!signal.aborted && !(error instanceof BrambleError && error.code === 'sandbox_died')) fail(error)
      }
    }
    const output = follow()
    const end = await Promise.race([lease.ended, untilClosed(socket).then(() => undefined)])
    if (!end) return
    await output
    const code = end.status === 'deleted' ? 'not_found' : end.reason === undefined ? 'instance_stopped' : 'sandbox_died'
    const error = new BrambleError(code, { detail: end.reason ?? `the instance is ${end.status}` })
    void socket.send(errorText(code, error.detail))
    socket.close(closeCodeOf(error), code)
  } finally {
    over.abort()
    stream.events.off('state', onState)
    await untilClosed(socket)
    sessions.leave(lease, id, socket.closeCode === CLOSE.normal)
  }
}

const tryStart = (call: PtyCall, fail: (error: unknown) => void): Command | undefined => {
  try {
    return start(call)
  } catch (error) {
    fail(error)
    return undefined
  }
}

const start = ({ lease, query }: PtyCall): Command => {
  const { cols, rows, cmd, user, workdir } = query
  const command = streamCommandSchema.parse({
    type: 'exec',
    id: newSessionId(),
    command: ['/bin/sh', '-c', cmd ?? LOGIN_SHELL],
    env: { TERM: 'xterm-256color', LANG: 'C.UTF-8' },
    pty: { cols, rows },
    ...(user !== undefined && { user }),
    ...(workdir !== undefined && { workdir }),
  })
  if (command.type !== 'exec') throw new TypeError('not a command')
  return lease.stream.start(command)
}

/** What the client sends: bytes for the terminal, or control messages. */
const clientOf = ({ context }: PtyCall, command: Command, socket: LiveSocket) => {
  const input = pendingInput(socket, context.limits.livePendingBytes)
  return (data: Buffer, binary: boolean): void => {
    if (binary) {
      input.write(command, data)
      return
    }
    try {
      const control = parse(ptyControlSchema, parseJson(data))
      if (control.type === 'resize') command.resize({ cols: control.cols, rows: control.rows })
      else command.kill(signalNumber(control.signal))
    } catch (error) {
      const wait = socket.send(errorMessage(error))
      if (wait) void wait.then(socket.hold())
    }
  }
}
