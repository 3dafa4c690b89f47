import { constants } from 'node:os'
import type { InstanceLease } from '@bramble/engine'
import { BrambleError } from '@bramble/protocol'
import { bufferPool } from '../buffer-pool.ts'
import { escapeJson, MAX_ESCAPED_BYTES } from '../escape-json.ts'
import { type OutputCutter, type OutputPiece, outputCutter } from '../output-pieces.ts'
import { base64Bytes, writeBase64 } from '../write-base64.ts'
import type { LiveSocket } from './live-socket.ts'

type Stream = InstanceLease['stream']
export type StreamEntry = ReturnType<Stream['read']> extends AsyncIterable<infer Entry> ? Entry : never
type CommandEntry = Extract<StreamEntry, { id: string }>
type Exit = Extract<CommandEntry['event'], { type: 'exit' }>

/** An entry is one event, however much it holds: its number stands for all of it. */
const WHOLE = Number.POSITIVE_INFINITY

/** Smaller messages come from Node's own pool of small buffers. */
const SMALL_BYTES = 2048

interface CommandWriter {
  /** Its id as JSON. */
  readonly id: string
  readonly stdout: OutputCutter
  readonly stderr: OutputCutter
}

/** Writes the entries of an instance's log as messages. */
export interface StreamWriter {
  /** A promise: wait for it before writing more. */
  write(entry: StreamEntry): Promise<void> | undefined
  /** Takes notice of an entry that the client has: half a character at its end waits for its rest. */
  skip(entry: StreamEntry): void
}

export const streamWriter = (socket: LiveSocket): StreamWriter => {
  const commands = new Map<string, CommandWriter>()
  const buffers = bufferPool()

  const commandOf = (id: string): CommandWriter => {
    const known = commands.get(id)
    if (known) return known
    const command = { id: JSON.stringify(id), stdout: outputCutter(WHOLE), stderr: outputCutter(WHOLE) }
    commands.set(id, command)
    return command
  }
  const sendPiece = (type: 'stdout' | 'stderr', seq: number, id: string, piece: OutputPiece) => {
    const { bytes, text } = piece
    const start = `{"type":"${type}","seq":${seq},"id":${id},${text ? '' : '"encoding":"base64",'}"data":"`
    const most = start.length + (text ? bytes.length * MAX_ESCAPED_BYTES : base64Bytes(bytes.length)) + 2
    const pooled = most > SMALL_BYTES
    const buffer = pooled ? buffers.take(most) : Buffer.allocUnsafe(most)
    let at = buffer.write(start, 0, 'latin1')
    at = text ? escapeJson(bytes, buffer, at) : writeBase64(bytes, buffer, at)
    at += buffer.write('"}', at, 'latin1')
    return socket.send(buffer.subarray(0, at), pooled ? { done: () => buffers.give(buffer) } : {})
  }
  const writeExit = (seq: number, { id }: CommandEntry, event: Exit): Promise<void> | undefined => {
    const command = commandOf(id)
    commands.delete(id)
    // Half a character that will not become a whole one. Its number is one before that of the end, which is still to come.
    for (const type of ['stdout', 'stderr'] as const) {
      const rest = command[type].rest()
      if (rest) void sendPiece(type, seq - 1, command.id, rest)
    }
    return socket.send(JSON.stringify({ type: 'exit', seq, id, ...endOf(event) }))
  }

  return {
    write: (entry) => {
      if ('name' in entry) {
        const { seq, name, data } = entry
        return socket.send(JSON.stringify({ type: 'custom', seq, name, data }))
      }
      const { seq, event } = entry
      switch (event.type) {
        case 'started':
          commands.delete(entry.id)
          return socket.send(`{"type":"started","seq":${seq},"id":${commandOf(entry.id).id},"pid":${event.pid}}`)
        case 'stdout':
        case 'stderr': {
          const command = commandOf(entry.id)
          let wait: Promise<void> | undefined
          for (const piece of command[event.type].cut(event.data)) wait = sendPiece(event.type, seq, command.id, piece)
          return wait
        }
        case 'exit':
          return writeExit(seq, entry, event)
        default:
          return event satisfies never
      }
    },
    skip: (entry) => {
      if ('name' in entry) return
      const { id, event } = entry
      if (event.type === 'exit') commands.delete(id)
      else if (event.type === 'started') commands.delete(id)
      else for (const _piece of commandOf(id)[event.type].cut(event.data));
    },
  }
}

const SIGNAL_NAMES = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]))

/** How a command ended, by the shell's convention. */
export const endOf = (exit: Exit): { code: number; signal?: string; message?: string } => {
  switch (exit.kind) {
    case 'exited':
      return { code: exit.code }
    case 'signalled':
      return { code: 128 + exit.signal, signal: SIGNAL_NAMES.get(exit.signal) ?? `SIG${exit.signal}` }
    case 'failed': {
      const notFound = exit.step === 'exec' && exit.errno === constants.errno.ENOENT
      return { code: notFound ? 127 : 126, message: exit.message }
    }
    default:
      return exit satisfies never
  }
}

/** The number of a signal by its name (`SIGINT`, `INT`) or as it is. Throws `invalid_request`. */
export const signalNumber = (signal: string | number): number => {
  if (typeof signal === 'number') return signal
  const name = signal.startsWith('SIG') ? signal : `SIG${signal}`
  const number = (constants.signals as Record<string, number>)[name]
  if (number !== undefined) return number
  const message = 'is not the name of a signal'
  throw new BrambleError('invalid_request', { detail: `\`signal\`: ${message}`, issues: [{ path: 'signal', message }] })
}
