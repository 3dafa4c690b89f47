import { BrambleError } from '@bramble/protocol'
import type { AgentLog, AgentProcess, ExecRequest, LogEntry, NamedCommand, ProcessEvent } from '../agent/agent.ts'
import { type CommandState, copyCommand, newCommand } from './command.ts'
import type { World } from './world.ts'

/** As `packages/agent/FRAMES.md` says: kept in all, and how much of it may wait for its acknowledgement. */
const KEPT_BYTES = 256 * 1024
const UNACKNOWLEDGED_BYTES = 192 * 1024
const HEADER_BYTES = 13
const NAME = /^[\x21-\x7e]{1,64}$/

type NewEntry = { name: string; event: ProcessEvent } | { emitted: Buffer }
interface Kept {
  readonly entry: LogEntry
  readonly bytes: number
}

/** A named command, and what it said that has found no room in the log yet. */
interface Named {
  readonly state: CommandState
  pid?: number
  waiting?: ProcessEvent
}

export interface LogState {
  readonly kept: Kept[]
  keptBytes: number
  unacknowledgedBytes: number
  acknowledged: number
  nextSeq: number
  readonly commands: Map<string, Named>
}

export const newLog = (): LogState => ({
  kept: [],
  keptBytes: 0,
  unacknowledgedBytes: 0,
  acknowledged: 0,
  nextSeq: 1,
  commands: new Map(),
})

export const copyLog = (state: LogState, world: World): LogState => ({
  ...state,
  kept: [...state.kept],
  commands: new Map(
    [...state.commands].map(([name, named]) => [name, { ...named, state: copyCommand(named.state, world) }]),
  ),
})

/** The log of a fake sandbox: named commands, and what programs emit. It outlives the connections to the agent. */
export interface FakeLog {
  readonly state: LogState
  /** The log as one connection sees it; the connection before it hears no more. */
  connect(): AgentLog
  /** Resolves when there is room for it. */
  emit(data: Buffer): Promise<void>
  /** The sandbox is gone. */
  end(error: Error): void
}

/** `run` runs a command that belongs to no connection; those in `state` go on at once. */
export const makeFakeLog = (run: (command: CommandState) => AgentProcess, state: LogState = newLog()): FakeLog => {
  const commands = new Map<string, NamedCommand>()
  let reader: ((entry: LogEntry) => void) | undefined
  let over: Error | undefined
  let waiters: (() => void)[] = []

  const wake = () => {
    const woken = waiters
    waiters = []
    for (const waiter of woken) waiter()
  }
  const room = async () => {
    while (!over && state.unacknowledgedBytes >= UNACKNOWLEDGED_BYTES)
      await new Promise<void>((resolve) => waiters.push(resolve))
    if (over) throw over
  }
  const append = (entry: NewEntry, dataBytes: number) => {
    const { kept } = state
    const bytes = HEADER_BYTES + dataBytes
    const numbered: LogEntry = { ...entry, seq: state.nextSeq++ }
    kept.push({ entry: numbered, bytes })
    state.keptBytes += bytes
    state.unacknowledgedBytes += bytes
    while (state.keptBytes > KEPT_BYTES && kept[0] && kept[0].entry.seq <= state.acknowledged)
      state.keptBytes -= kept.shift()?.bytes ?? 0
    reader?.(numbered)
  }
  const take = async (name: string, named: Named, event: ProcessEvent) => {
    named.waiting = event
    if (event.type === 'started') named.pid = event.pid
    const output = event.type === 'stdout' || event.type === 'stderr'
    if (output) await room()
    if (event.type === 'exit') drop(name)
    append({ name, event }, name.length + (output ? event.data.length : 0))
    delete named.waiting
  }
  const drop = (name: string) => {
    commands.delete(name)
    state.commands.delete(name)
  }
  const follow = (name: string, named: Named): NamedCommand => {
    const running = run(named.state)
    const { write, end, kill, resize } = running
    const command: NamedCommand = {
      name,
      pty: named.state.request.pty !== undefined,
      get pid() {
        return named.pid
      },
      ...{ write, end, kill, resize },
    }
    commands.set(name, command)
    const pump = async () => {
      if (named.waiting) await take(name, named, named.waiting)
      for await (const event of running) await take(name, named, event)
    }
    // It fails when the sandbox is gone, which the connection tells.
    pump().catch(() => drop(name))
    return command
  }
  const start = (request: ExecRequest, name: string): NamedCommand => {
    if (!NAME.test(name)) throw new BrambleError('invalid_request', { detail: `${name} is no name of a command` })
    if (commands.has(name)) throw new BrambleError('conflict', { detail: `a command is called ${name} already` })
    const named: Named = { state: newCommand(request) }
    state.commands.set(name, named)
    return follow(name, named)
  }
  for (const [name, named] of state.commands) follow(name, named)

  return {
    state,
    connect: () => {
      reader = undefined
      const firstNewSeq = state.nextSeq
      return {
        firstSeq: state.kept[0]?.entry.seq ?? firstNewSeq,
        firstNewSeq,
        get nextSeq() {
          return state.nextSeq
        },
        commands,
        start,
        read: (onEntry) => {
          for (const { entry } of [...state.kept]) onEntry(entry)
          reader = onEntry
        },
        acknowledge: (seq) => {
          for (const { entry, bytes } of state.kept)
            if (entry.seq > state.acknowledged && entry.seq <= seq) state.unacknowledgedBytes -= bytes
          state.acknowledged = Math.max(state.acknowledged, Math.min(seq, state.nextSeq - 1))
          wake()
        },
      }
    },
    emit: async (data) => {
      await room()
      append({ emitted: data }, data.length)
    },
    end: (error) => {
      over = error
      state.kept.length = 0
      state.commands.clear()
      commands.clear()
      wake()
    },
  }
}
