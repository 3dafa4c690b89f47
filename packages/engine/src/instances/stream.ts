import { EventEmitter } from 'node:events'
import { BrambleError, LIMITS, newId, type StreamCommand } from '@bramble/protocol'
import type { Agent, ExecRequest, LogEntry, NamedCommand } from '@bramble/runtime'
import type { Clock } from '../options.ts'
import { createEntryWindow } from './entry-window.ts'
import type { InstanceStream, StreamEntry, StreamReadOptions } from './instances.ts'

/** The numbers of one start of the instance: each sandbox counts from 1. */
const SEQ_OF_RUN = 2 ** 32
/** Entries nobody has taken that hold the agent's log (256 KiB) nearly full. */
const FULL_BYTES = 128 * 1024
/** The agent stops at 256 KiB; what is past this is an agent that does not, and costs the slowest reader its place. */
const MAX_WAITING_BYTES = 1024 * 1024
const MAX_CUSTOM_NAME_CHARS = 256

export interface StreamDeps {
  readonly clock: Clock
  readonly stallMs: number
  /** What a command of the instance is for its agent. Throws where it may not be started now. */
  readonly requestOf: (command: ExecCommand) => ExecRequest
  /** A command ended. */
  readonly onExit: () => void
  /** A program emitted something that is not `{"name", "data"}`; it is dropped. */
  readonly onNoise: () => void
}

type ExecCommand = Extract<StreamCommand, { type: 'exec' }>

/** The stream of an instance over all its sandboxes, one after another. */
export interface ConnectedStream extends InstanceStream {
  /** Entries come from this agent from now on: of a new sandbox (`run`), or of the same one connected again. */
  connect(agent: Agent, run: number): void
  /**
   * Hands out nothing more of what comes, and acknowledges none of it, until `goOn`. With `disconnect` instead, it has never come:
   * a copy of the sandbox says it again.
   */
  hold(): { goOn(): void }
  /** The sandbox is gone: readers get what is left, then their end. */
  disconnect(): void
}

interface Reader {
  /** The position of the entry it gets next. */
  next: number
  /** The position after the last entry it took. */
  taken: number
  /** The position where it ends. */
  end: number | undefined
  sinceMs: number
  cut: BrambleError | undefined
  wake: (() => void) | undefined
  readonly onCutOff: ((error: BrambleError) => void) | undefined
}

const NO_COMMANDS: ReadonlyMap<string, NamedCommand> = new Map()

/** The event of a datagram that a program in the sandbox sent, where it is one. */
const customOf = (datagram: Buffer): { name: string; data: unknown } | undefined => {
  if (datagram.length > LIMITS.maxCustomEventBytes.value) return undefined
  try {
    const value: unknown = JSON.parse(datagram.toString('utf8'))
    if (typeof value !== 'object' || value === null || !('name' in value)) return undefined
    const { name } = value
    if (typeof name !== 'string' || name === '' || name.length > MAX_CUSTOM_NAME_CHARS) return undefined
    return { name, data: 'data' in value ? value.data : null }
  } catch {
    return undefined
  }
}

export const createStream = (deps: StreamDeps): ConnectedStream => {
  const { clock } = deps
  const window = createEntryWindow()
  const readers = new Set<Reader>()
  const events = new EventEmitter<{ state: [] }>().setMaxListeners(0)
  let agent: Agent | undefined
  let base = 0
  /** The newest number that came, and the newest one that is no longer kept. */
  let lastSeq = 0
  let lostSeq = 0
  /** Below this, what comes was kept by the agent from before. */
  let newFromSeq = 1
  let connectedBefore = false
  let stallTimer: NodeJS.Timeout | undefined
  /** What came while nothing is handed out; the agent's log is its bound. */
  let waiting: LogEntry[] | undefined

  const newestSeq = (): number => Math.max(lastSeq, newFromSeq - 1)

  const slowest = (): number => {
    let position = window.end
    for (const reader of readers) position = Math.min(position, reader.taken)
    return position
  }

  const wake = (reader: Reader): void => {
    reader.wake?.()
    reader.wake = undefined
  }

  const cutOff = (reader: Reader): void => {
    const detail = `it took nothing for ${deps.stallMs} ms while the log of the instance was full`
    reader.cut = new BrambleError('slow_consumer', { detail })
    readers.delete(reader)
    reader.onCutOff?.(reader.cut)
    wake(reader)
  }

  /** Lets the agent forget what every reader took, and forgets what is past the window. */
  const settle = (): void => {
    const taken = slowest()
    const untaken = window.at(taken)
    agent?.log.acknowledge((untaken === undefined ? lastSeq : untaken.seq - 1) - base)
    const forgotten = window.trim(taken, agent ? LIMITS.keptStreamBytes.value : 0)
    if (forgotten) lostSeq = forgotten.seq
    if (window.bytesFrom(taken) >= FULL_BYTES) watchStall()
  }

  const watchStall = (): void => {
    stallTimer ??= setTimeout(() => {
      stallTimer = undefined
      const nowMs = clock.monotonicMs()
      if (window.bytesFrom(slowest()) < FULL_BYTES) return
      for (const reader of [...readers])
        if (reader.taken < window.end && nowMs - reader.sinceMs >= deps.stallMs) cutOff(reader)
      settle()
    }, stallInMs())
  }
  const stallInMs = (): number => {
    const nowMs = clock.monotonicMs()
    let ms = deps.stallMs
    for (const reader of readers)
      if (reader.taken < window.end) ms = Math.min(ms, reader.sinceMs + deps.stallMs - nowMs)
    return Math.max(1, Math.ceil(ms))
  }

  const add = (entry: StreamEntry, bytes: number): void => {
    window.add(entry, bytes)
    for (const reader of readers) wake(reader)
    while (window.bytesFrom(slowest()) > MAX_WAITING_BYTES) {
      const last = slowest()
      for (const reader of [...readers]) if (reader.taken === last) cutOff(reader)
    }
  }

  const onEntry = (source: Agent, entry: LogEntry): void => {
    if (source !== agent) return
    if (waiting) {
      waiting.push(entry)
      return
    }
    const seq = base + entry.seq
    // Handed out again over a new connection to the same sandbox.
    if (seq <= lastSeq) return
    if (entry.seq >= SEQ_OF_RUN) {
      void agent.close()
      return
    }
    lastSeq = seq
    if ('emitted' in entry) {
      const custom = customOf(entry.emitted)
      if (custom) add({ seq, ...custom }, entry.emitted.length)
      else deps.onNoise()
    } else {
      const { name, event } = entry
      add({ seq, id: name, event }, event.type === 'stdout' || event.type === 'stderr' ? event.data.length : 0)
      if (event.type === 'exit') deps.onExit()
    }
    settle()
  }

  const newReader = (position: number, onCutOff: Reader['onCutOff']): Reader => ({
    next: position,
    taken: position,
    end: agent ? undefined : window.end,
    sinceMs: clock.monotonicMs(),
    cut: undefined,
    wake: undefined,
    onCutOff,
  })

  /** Hands out what is there; rests until there is more. */
  async function* follow(since: number, { only, signal, onCutOff }: StreamReadOptions): AsyncGenerator<StreamEntry> {
    if (since < lostSeq) {
      const detail = `what is kept begins at ${lostSeq + 1}, after ${since}`
      throw new BrambleError('window_passed', { detail })
    }
    const reader = newReader(window.after(since), onCutOff)
    readers.add(reader)
    const onAbort = (): void => wake(reader)
    signal.addEventListener('abort', onAbort)
    try {
      for (;;) {
        signal.throwIfAborted()
        if (reader.cut) throw reader.cut
        const entry = window.at(reader.next)
        if (reader.end !== undefined && reader.next >= reader.end) return
        if (entry) {
          reader.next++
          const wanted = entry.seq > since && (only === undefined || ('id' in entry && entry.id === only))
          if (wanted) yield entry
          reader.taken = reader.next
          reader.sinceMs = clock.monotonicMs()
          settle()
          continue
        }
        await new Promise<void>((resolve) => {
          reader.wake = resolve
        })
        reader.sinceMs = clock.monotonicMs()
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      if (readers.delete(reader)) settle()
    }
  }

  return {
    events,
    get seq() {
      return newestSeq()
    },
    get firstSeq() {
      return lostSeq + 1
    },
    get commands() {
      return agent?.log.commands ?? NO_COMMANDS
    },
    start(command) {
      if (!agent) throw new BrambleError('instance_stopped', { detail: 'its sandbox is gone' })
      const { size } = agent.log.commands
      if (size >= LIMITS.maxStreamCommands.value)
        throw new BrambleError('quota_exceeded', { detail: `${size} commands run on the streams of the instance` })
      const request = deps.requestOf(command)
      return agent.log.start(request, command.id ?? newId('command'))
    },
    read: (options) => follow(options.since ?? newestSeq(), options),
    connect(connected, run) {
      const { firstSeq, firstNewSeq } = connected.log
      agent = connected
      base = run * SEQ_OF_RUN
      newFromSeq = base + Math.min(firstNewSeq, SEQ_OF_RUN)
      const lost = base + firstSeq - 1
      // What an earlier node had and this one never saw, or the agent does not keep though it was not taken.
      if (!connectedBefore || (firstSeq > 1 && lost > lastSeq)) lostSeq = lost
      connectedBefore = true
      connected.log.read((entry) => onEntry(connected, entry))
    },
    hold() {
      waiting = []
      const held = waiting
      const source = agent
      return {
        goOn() {
          if (waiting !== held) return
          waiting = undefined
          if (source) for (const entry of held) onEntry(source, entry)
        },
      }
    },
    disconnect() {
      agent = undefined
      waiting = undefined
      clearTimeout(stallTimer)
      stallTimer = undefined
      for (const reader of readers) {
        reader.end = window.end
        wake(reader)
      }
      settle()
    },
  }
}
