import { BrambleError } from '@bramble/protocol'
import type { AgentLog, ExecRequest, LogEntry, NamedCommand, ProcessEvent } from './agent.ts'
import { encodeExec } from './exec-frame.ts'
import { ackFrame, FRAME, HEADER_BYTES } from './frames.ts'
import { parseExit, parseFailed } from './process-frames.ts'
import { type ChannelInput, createProcessInput, STDIN_WINDOW_BYTES } from './process-input.ts'

/** The agent is told what it may forget in portions: it forgets only when it wants room. */
const ACK_PORTION_BYTES = 32 * 1024
/** Acknowledged ones are dropped from the list in groups. */
const HELD_SLACK = 1024
/** What may come without being acknowledged: the agent stops far below, and readers are cut off before. */
const UNACKNOWLEDGED_BYTES_MAX = 4 * 1024 * 1024
/** What an entry costs beyond its bytes, roughly. */
const ENTRY_OVERHEAD_BYTES = 128
/** Of the agent: named commands at once. */
const NAMED_MAX = 64
const NAME = /^[\x21-\x7e]{1,64}$/
const FLAG = { begun: 1, terminal: 2, stdinOpen: 4 } as const

/** The connection's end of the log. Each `on…` throws `Error` where the agent may not say so. */
export interface LogSink {
  readonly api: AgentLog
  onHello(firstSeq: number, firstNewSeq: number): void
  /** Of a connection that goes on with what the one before had: entries that came already are sent again, and left out. */
  onHelloAgain(firstSeq: number, firstNewSeq: number): void
  /** A named command that ran before this connection. */
  onChannel(channel: number, payload: Buffer): void
  onEntry(type: number, payload: Buffer): void
  onStdinCredit(channel: number, bytes: number): void
  /** Whether a named command is on the channel. */
  has(channel: number): boolean
  fail(error: Error): void
}

export interface LogDeps {
  send(frame: Buffer): void
  nextChannel(): number
  failure(): Error | undefined
}

interface Live {
  readonly name: string
  readonly channel: number
  readonly pty: boolean
  readonly input: ChannelInput
  pid: number | undefined
}

const eventOf = (type: number, body: Buffer): ProcessEvent => {
  if (type === FRAME.started && body.length === 4) return { type: 'started', pid: body.readUInt32LE(0) }
  if (type === FRAME.stdout && body.length > 0) return { type: 'stdout', data: body }
  if (type === FRAME.stderr && body.length > 0) return { type: 'stderr', data: body }
  if (type === FRAME.exit && body.length === 28) return { type: 'exit', ...parseExit(body) }
  if (type === FRAME.failed && body.length >= 5) return { type: 'exit', ...parseFailed(body) }
  throw new Error(`an entry of type 0x${type.toString(16)} with ${body.length} bytes`)
}

export const createAgentLog = ({ send, nextChannel, failure }: LogDeps): LogSink => {
  const byName = new Map<string, Live>()
  const byChannel = new Map<number, Live>()
  const commands = new Map<string, NamedCommand>()
  let firstSeq = 1
  let firstNewSeq = 1
  let nextSeq = 1
  /** Of the next entry to come; below `nextSeq` it has come before. */
  let incomingSeq = 1
  /** Whether a new connection has yet to say which commands run. */
  let known = false
  let waiting: LogEntry[] = []
  let reader: ((entry: LogEntry) => void) | undefined
  /** Bytes that the agent holds for entries not acknowledged yet. */
  const held: { seq: number; bytes: number }[] = []
  let heldFrom = 0
  let heldBytes = 0
  let ackBytes = 0

  const add = (live: Live): NamedCommand => {
    const { name, pty, input } = live
    byName.set(name, live)
    byChannel.set(live.channel, live)
    const { write, end, kill, resize } = input
    const command: NamedCommand = {
      name,
      pty,
      get pid() {
        return live.pid
      },
      write,
      end,
      kill,
      resize,
    }
    commands.set(name, command)
    return command
  }

  const remove = (live: Live): void => {
    live.input.close()
    byName.delete(live.name)
    byChannel.delete(live.channel)
    commands.delete(live.name)
  }

  const start = (request: ExecRequest, name: string): NamedCommand => {
    if (!NAME.test(name))
      throw new BrambleError('invalid_request', { detail: 'a command id is 1 to 64 printable characters' })
    if (byName.has(name)) throw new BrambleError('conflict', { detail: `a command \`${name}\` runs already` })
    if (byName.size >= NAMED_MAX)
      throw new BrambleError('conflict', { detail: `${NAMED_MAX} commands run already, which is as many as may` })
    const error = failure()
    if (error !== undefined) throw error
    const channel = nextChannel()
    const frame = encodeExec(channel, request, 0, name)
    const pty = request.pty !== undefined
    const creditBytes = pty || request.stdin === 'pipe' ? undefined : 0
    const input = createProcessInput({ channel, send, ...(creditBytes !== undefined && { creditBytes }) })
    const command = add({ name, channel, pty, input, pid: undefined })
    send(frame)
    return command
  }

  const onEntry = (type: number, payload: Buffer): void => {
    const nameBytes = payload.readUInt8(0)
    const name = payload.toString('latin1', 1, 1 + nameBytes)
    const body = payload.subarray(1 + nameBytes)
    if (payload.length < 1 + nameBytes || (nameBytes > 0 && !NAME.test(name)))
      throw new Error('an entry without its name')
    if ((type === FRAME.event) !== (nameBytes === 0)) throw new Error('an entry of nobody')
    if (incomingSeq++ < nextSeq) return
    const seq = nextSeq++
    held.push({ seq, bytes: HEADER_BYTES + payload.length })
    heldBytes += payload.length + ENTRY_OVERHEAD_BYTES
    if (heldBytes > UNACKNOWLEDGED_BYTES_MAX) throw new Error('more entries than anybody acknowledged')
    const entry: LogEntry = type === FRAME.event ? { seq, emitted: body } : { seq, name, event: eventOf(type, body) }
    const live = byName.get(name)
    if (live !== undefined && 'event' in entry) {
      if (entry.event.type === 'started') live.pid = entry.event.pid
      if (entry.event.type === 'exit') remove(live)
    }
    if (reader === undefined) waiting.push(entry)
    else reader(entry)
  }

  const acknowledge = (seq: number): void => {
    let last: number | undefined
    for (let next = held[heldFrom]; next !== undefined && next.seq <= seq; next = held[heldFrom]) {
      ackBytes += next.bytes
      heldBytes -= next.bytes - HEADER_BYTES + ENTRY_OVERHEAD_BYTES
      last = next.seq
      heldFrom++
    }
    if (heldFrom >= HELD_SLACK) {
      held.splice(0, heldFrom)
      heldFrom = 0
    }
    if (last === undefined || ackBytes < ACK_PORTION_BYTES) return
    ackBytes = 0
    send(ackFrame(last))
  }

  return {
    api: {
      get firstSeq() {
        return firstSeq
      },
      get firstNewSeq() {
        return firstNewSeq
      },
      get nextSeq() {
        return nextSeq
      },
      commands,
      start,
      read: (onEntryRead) => {
        if (reader !== undefined) throw new TypeError('the log has one reader')
        reader = onEntryRead
        const entries = waiting
        waiting = []
        for (const entry of entries) onEntryRead(entry)
      },
      acknowledge,
    },
    onHello: (first, firstNew) => {
      firstSeq = first
      firstNewSeq = firstNew
      nextSeq = first
      incomingSeq = first
    },
    onHelloAgain: (first, firstNew) => {
      if (first > nextSeq || firstNew < nextSeq) throw new Error(`a log from ${first} to ${firstNew} after ${nextSeq}`)
      incomingSeq = first
      known = true
    },
    onChannel: (channel, payload) => {
      const flags = payload.readUInt8(0)
      const name = payload.toString('latin1', 9)
      if (known) {
        // What was sent on it was taken before the agent parked: nothing changed.
        if (byName.get(name)?.channel !== channel) throw new Error(`a CHANNEL ${channel} that was not there`)
        return
      }
      const creditBytes = payload.readUInt32LE(5)
      const isTwice = byName.has(name) || byChannel.has(channel)
      if (!NAME.test(name) || isTwice || channel === 0 || byName.size >= NAMED_MAX || creditBytes > STDIN_WINDOW_BYTES)
        throw new Error(`a CHANNEL ${channel} that cannot be`)
      const input = createProcessInput({ channel, send, creditBytes: flags & FLAG.stdinOpen ? creditBytes : 0 })
      const pid = flags & FLAG.begun ? payload.readUInt32LE(1) : undefined
      add({ name, channel, pty: (flags & FLAG.terminal) !== 0, input, pid })
    },
    onEntry,
    onStdinCredit: (channel, bytes) => byChannel.get(channel)?.input.onCredit(bytes),
    has: (channel) => byChannel.has(channel),
    fail: (error) => {
      for (const { input } of byName.values()) input.close(error)
      byName.clear()
      byChannel.clear()
      commands.clear()
    },
  }
}
