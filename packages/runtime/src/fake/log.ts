import { BrambleError } from '@bramble/protocol'
import type { AgentLog, AgentProcess, ExecRequest, LogEntry, NamedCommand, ProcessEvent } from '../agent/agent.ts'

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

/** The log of a fake sandbox: named commands, and what programs emit. It outlives the connections to the agent. */
export interface FakeLog {
  /** The log as one connection sees it; the connection before it hears no more. */
  connect(): AgentLog
  /** Resolves when there is room for it. */
  emit(data: Buffer): Promise<void>
  /** The sandbox is gone. */
  end(error: Error): void
}

/** `exec` starts a command that belongs to no connection. */
export const makeFakeLog = (exec: (request: ExecRequest) => AgentProcess): FakeLog => {
  const commands = new Map<string, NamedCommand>()
  let kept: Kept[] = []
  let keptBytes = 0
  let unacknowledgedBytes = 0
  let acknowledged = 0
  let nextSeq = 1
  let reader: ((entry: LogEntry) => void) | undefined
  let over: Error | undefined
  let waiters: (() => void)[] = []

  const wake = () => {
    const woken = waiters
    waiters = []
    for (const waiter of woken) waiter()
  }
  const room = async () => {
    while (!over && unacknowledgedBytes >= UNACKNOWLEDGED_BYTES)
      await new Promise<void>((resolve) => waiters.push(resolve))
    if (over) throw over
  }
  const append = (entry: NewEntry, dataBytes: number) => {
    const bytes = HEADER_BYTES + dataBytes
    const numbered: LogEntry = { ...entry, seq: nextSeq++ }
    kept.push({ entry: numbered, bytes })
    keptBytes += bytes
    unacknowledgedBytes += bytes
    while (keptBytes > KEPT_BYTES && kept[0] && kept[0].entry.seq <= acknowledged) keptBytes -= kept.shift()?.bytes ?? 0
    reader?.(numbered)
  }
  const start = (request: ExecRequest, name: string): NamedCommand => {
    if (!NAME.test(name)) throw new BrambleError('invalid_request', { detail: `${name} is no name of a command` })
    if (commands.has(name)) throw new BrambleError('conflict', { detail: `a command is called ${name} already` })
    const running = exec(request)
    let pid: number | undefined
    const { write, end, kill, resize } = running
    const command: NamedCommand = {
      name,
      pty: request.pty !== undefined,
      get pid() {
        return pid
      },
      ...{ write, end, kill, resize },
    }
    commands.set(name, command)
    const pump = async () => {
      for await (const event of running) {
        if (event.type === 'started') pid = event.pid
        const output = event.type === 'stdout' || event.type === 'stderr'
        if (output) await room()
        if (event.type === 'exit') commands.delete(name)
        append({ name, event }, name.length + (output ? event.data.length : 0))
      }
    }
    // It fails when the sandbox is gone, which the connection tells.
    pump().catch(() => commands.delete(name))
    return command
  }

  return {
    connect: () => {
      reader = undefined
      const firstNewSeq = nextSeq
      return {
        firstSeq: kept[0]?.entry.seq ?? nextSeq,
        firstNewSeq,
        get nextSeq() {
          return nextSeq
        },
        commands,
        start,
        read: (onEntry) => {
          for (const { entry } of [...kept]) onEntry(entry)
          reader = onEntry
        },
        acknowledge: (seq) => {
          for (const { entry, bytes } of kept)
            if (entry.seq > acknowledged && entry.seq <= seq) unacknowledgedBytes -= bytes
          acknowledged = Math.max(acknowledged, Math.min(seq, nextSeq - 1))
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
      kept = []
      commands.clear()
      wake()
    },
  }
}
