import { constants } from 'node:os'
import { posix } from 'node:path'
import { BrambleError } from '@bramble/protocol'
import type { Agent, AgentLog, AgentProcess, ExecRequest, FailedStep, ProcessEvent, Rusage } from '../agent/agent.ts'
import { SystemError } from './file-system.ts'
import { OutputQueue } from './output-queue.ts'
import { emptySource, Pipe, type Sink } from './pipe.ts'
import { FakeProcess, loadProgram, type Machine, type Status } from './process.ts'
import { findUser } from './users.ts'

const LINGER_MS = 100
const STDIN_WINDOW_BYTES = 65_536
const NO_RUSAGE: Rusage = { userMicros: 0, systemMicros: 0, peakResidentBytes: 0 }

export interface FakeAgent extends Agent {
  /** Ends the connection and every command on it; what runs rejects with `error`. */
  end(error: BrambleError | undefined): void
}

const died = (detail: string) => new BrambleError('sandbox_died', { detail })

/** Runs ahead of each command; what it throws ends the command's events. */
type Before = (request: ExecRequest) => Promise<void>

/** Commands of a machine that belong to no connection; `fail` ends them all, when the machine is gone. */
export const unconnected = (
  machine: () => Machine,
  before: Before,
): { exec(request: ExecRequest): AgentProcess; fail(error: Error): void } => {
  const running = new Set<(error: Error) => void>()
  return {
    exec: (request) => startCommand(machine(), request, before, running, undefined),
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
  const end = (error: BrambleError | undefined) => {
    if (ended) return
    ended = error ?? died('the connection to the agent was closed')
    for (const fail of running) fail(ended)
    if (!keep) for (const process of machine.processes.values()) process.kill(9)
    over.resolve(error)
  }
  const close = async () => end(undefined)
  return {
    exec: (request) => startCommand(machine, request, before, running, ended),
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

const startCommand = (
  machine: Machine,
  request: ExecRequest,
  before: Before,
  running: Set<(error: Error) => void>,
  ended: BrambleError | undefined,
): AgentProcess => {
  const queue = new OutputQueue<ProcessEvent>()
  const stdin = new Pipe(STDIN_WINDOW_BYTES)
  const detached = new AbortController()
  const live: { process?: FakeProcess; killed?: number } = {}
  const kill = (signal = 15) => {
    if (!live.process) live.killed ??= signal
    else
      for (const process of [...machine.processes.values()])
        if (process.group === live.process.group) process.kill(signal)
  }
  const fail = (error: Error) => {
    running.delete(fail)
    kill(9)
    stdin.break()
    detached.abort(error)
    queue.fail(error)
  }
  const main = async () => {
    await before(request)
    const started = start(machine, request, queue, stdin)
    if (started.failed) return queue.finish(started.failed)
    live.process = started.process
    queue.push({ type: 'started', pid: started.process.pid }, 0)
    const running = started.run()
    if (live.killed !== undefined) kill(live.killed)
    const status = await running
    stdin.break()
    await streamsClosed(machine, started.sinks, request.linger === true, detached.signal)
    started.close()
    queue.finish(exitEvent(status))
  }
  if (ended) fail(ended)
  else {
    running.add(fail)
    main().then(() => running.delete(fail), fail)
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
    discard: (stream) => queue.discard(stream),
    [Symbol.asyncIterator]: () => queue.iterate(() => kill(9)),
  }
}

const exitEvent = (status: Status): ProcessEvent =>
  'code' in status
    ? { type: 'exit', kind: 'exited', code: status.code, rusage: NO_RUSAGE }
    : { type: 'exit', kind: 'signalled', signal: status.signal, rusage: NO_RUSAGE }

const start = (machine: Machine, request: ExecRequest, queue: OutputQueue<ProcessEvent>, stdin: Pipe) => {
  let step: FailedStep = 'user'
  try {
    const user = findUser(machine.files, request.user ?? 'root')
    step = 'workdir'
    const workdir = posix.resolve('/', request.workdir ?? '/')
    machine.files.directory(workdir, user)
    step = 'exec'
    const env = new Map(Object.entries(request.env ?? {}))
    const { program, argv } = loadProgram(machine, request.argv.map(String), { env, workdir, user })
    let open = true
    const sink = (type: 'stdout' | 'stderr'): Sink => ({
      write: async (data, writer) => {
        if (open && data.length > 0) await queue.pushOutput({ type, data }, data.length, writer)
      },
    })
    const sinks = { stdout: sink('stdout'), stderr: sink('stderr') }
    const input = request.stdin === 'pipe' ? stdin : emptySource
    if (request.stdin !== 'pipe') stdin.break()
    const process = new FakeProcess({ machine, argv, env, workdir, user, stdin: input, ...sinks })
    const close = () => {
      open = false
    }
    return { process, run: () => process.run(program), sinks, close }
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
const streamsClosed = async (
  machine: Machine,
  sinks: { stdout: Sink; stderr: Sink },
  linger: boolean,
  signal: AbortSignal,
) => {
  const holders = () =>
    [...machine.processes.values()].filter(({ stdout, stderr }) => stdout === sinks.stdout || stderr === sinks.stderr)
  if (holders().length === 0) return
  const patience = new AbortController()
  const late = machine.clock.sleep(LINGER_MS, { signal: patience.signal }).catch(() => undefined)
  const gone = async () => {
    while (holders().length > 0 && !signal.aborted) await Promise.all(holders().map((process) => process.ended))
  }
  await (linger ? gone() : Promise.race([gone(), late]))
  patience.abort()
}
