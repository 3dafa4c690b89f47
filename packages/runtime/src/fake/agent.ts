import { constants } from 'node:os'
import { posix } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import type { Agent, AgentLog, AgentProcess, ExecRequest, FailedStep, ProcessEvent, Rusage } from '../agent/agent.ts'
import { type CommandState, newCommand, STDIN_WINDOW_BYTES } from './command.ts'
import { SystemError } from './file-system.ts'
import { nameOf } from './names.ts'
import { emptySource } from './pipe.ts'
import { FakeProcess, loadProgram, type Machine, type Status } from './process.ts'
import { findUser } from './users.ts'

const LINGER_MS = 100
const NO_RUSAGE: Rusage = { userMicros: 0, systemMicros: 0, peakResidentBytes: 0 }

export interface FakeAgent extends Agent {
  /** Ends the connection and every command on it; what runs rejects with `error`. */
  end(error: BrambleError | undefined): void
  /** The process groups of the commands on it, which end with it. */
  groups(): ReadonlySet<number>
}

const died = (detail: string) => new BrambleError('sandbox_died', { detail })

/** Runs ahead of each command; what it throws ends the command's events. */
type Before = (request: ExecRequest) => Promise<void>

/** Commands of a machine that belong to no connection; `fail` ends them all, when the machine is gone. */
export const unconnected = (
  machine: () => Machine,
  before: Before,
): { run(command: CommandState): AgentProcess; fail(error: Error): void } => {
  const running = new Set<(error: Error) => void>()
  return {
    run: (command) => runCommand(machine(), command, before, running, undefined),
    fail: (error) => {
      for (const fail of running) fail(error)
    },
  }
}

/** One connection to the agent of a machine. Without `keep` every process ends with it, else only its own commands. */
export const fakeAgent = (machine: Machine, before: Before, log: AgentLog, keep: boolean): FakeAgent => {
  const running = new Set<(error: Error) => void>()
  const over = Promise.withResolvers<Error | undefined>()
  let ended: BrambleError | undefined
  const commands = new Set<CommandState>()
  const end = (error: BrambleError | undefined) => {
    if (ended) return
    ended = error ?? died('the connection to the agent was closed')
    for (const fail of running) fail(ended)
    if (!keep) for (const process of machine.processes.values()) process.kill(9)
    over.resolve(error)
  }
  const close = async () => end(undefined)
  return {
    exec: (request) => {
      const command = newCommand(request)
      commands.add(command)
      return runCommand(machine, command, before, running, ended, () => commands.delete(command))
    },
    groups: () => new Set([...commands].flatMap(({ process }) => process?.group ?? [])),
    ping: async (options) => {
      options?.signal?.throwIfAborted()
      if (ended) throw ended
    },
    connect: ({ port }) =>
      Promise.reject(new BrambleError('port_closed', { detail: `nothing listens on port ${port}` })),
    log,
    closed: over.promise,
    close,
    end,
    [Symbol.asyncDispose]: close,
  }
}

/** Runs a command to its end: from its start, or from where the copy of one is. */
const runCommand = (
  machine: Machine,
  command: CommandState,
  before: Before,
  running: Set<(error: Error) => void>,
  ended: BrambleError | undefined,
  over: () => void = () => {},
): AgentProcess => {
  const { request, events, stdin } = command
  const detached = new AbortController()
  let killed: number | undefined
  const kill = (signal = 15) => {
    if (!command.process) killed ??= signal
    else
      for (const process of [...machine.processes.values()])
        if (process.group === command.process.group) process.kill(signal)
  }
  const stop = () => {
    running.delete(fail)
    over()
  }
  const fail = (error: Error) => {
    stop()
    kill(9)
    stdin.break()
    detached.abort(error)
    events.fail(error)
  }
  const main = async () => {
    let { process } = command
    if (!process) {
      await before(request)
      const started = start(machine, command)
      if (started.failed) return events.finish(started.failed)
      process = started.process
      command.process = process
      events.push({ type: 'started', pid: process.pid }, 0)
      void process.run(started.program)
      if (killed !== undefined) kill(killed)
    }
    const status = await process.exited
    stdin.break()
    await streamsClosed(machine, command, detached.signal)
    for (const sink of [command.stdout, command.stderr]) sink.close()
    events.finish(exitEvent(status))
  }
  if (ended) fail(ended)
  else {
    running.add(fail)
    main().then(stop, fail)
  }
  return {
    write: async (data) => {
      for (let at = 0; at < data.length; at += STDIN_WINDOW_BYTES)
        await stdin.write(Buffer.from(data.subarray(at, at + STDIN_WINDOW_BYTES)), detached.signal).catch((error) => {
          // A command that closed its standard input swallows what comes.
          if (detached.signal.aborted) throw error
        })
    },
    end: () => stdin.end(),
    kill,
    resize: () => {},
    discard: (stream) => events.discard(stream),
    [Symbol.asyncIterator]: () => events.iterate(() => kill(9)),
  }
}

const exitEvent = (status: Status): ProcessEvent =>
  'code' in status
    ? { type: 'exit', kind: 'exited', code: status.code, rusage: NO_RUSAGE }
    : { type: 'exit', kind: 'signalled', signal: status.signal, rusage: NO_RUSAGE }

const start = (machine: Machine, { request, stdin, stdout, stderr }: CommandState) => {
  let step: FailedStep = 'user'
  try {
    const user = findUser(machine.files, request.user ?? 'root')
    step = 'workdir'
    const workdir = posix.resolve('/', request.workdir ?? '/')
    machine.files.directory(workdir, user)
    step = 'exec'
    const env = new Map(Object.entries(request.env ?? {}))
    const words = request.argv.map((word) => (typeof word === 'string' ? word : nameOf(word)))
    const { program, argv } = loadProgram(machine, words, { env, workdir, user })
    const input = request.stdin === 'pipe' ? stdin : emptySource
    if (request.stdin !== 'pipe') stdin.break()
    return { process: new FakeProcess({ machine, argv, env, workdir, user, stdin: input, stdout, stderr }), program }
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    const failed = {
      type: 'exit',
      kind: 'failed',
      errno: constants.errno[error.errno],
      step,
      message: error.message,
    } as const
    return { failed }
  }
}

/** Waits for the processes that hold the command's streams: without `linger`, only so long. */
const streamsClosed = async (machine: Machine, command: CommandState, signal: AbortSignal) => {
  const holders = () =>
    [...machine.processes.values()].filter(
      ({ stdout, stderr }) => stdout === command.stdout || stderr === command.stderr,
    )
  if (holders().length === 0) return
  const patience = new AbortController()
  const late = machine.clock.sleep(LINGER_MS, { signal: patience.signal }).catch(() => undefined)
  const gone = async () => {
    while (holders().length > 0 && !signal.aborted) await Promise.all(holders().map((process) => process.exited))
  }
  await (command.request.linger === true ? gone() : Promise.race([gone(), late]))
  patience.abort()
}
