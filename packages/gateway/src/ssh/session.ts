import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { type AgentProcess, cutoff, type InstanceLease, type ProcessExit, SANDBOX_AGENT_PATH } from '@bramble/engine'
import { toBrambleError } from '@bramble/protocol'
import type { PseudoTtyInfo, ServerChannel, Session } from 'ssh2'
import { LOGIN_SHELL } from '../login-shell.ts'
import { type ChannelIo, channelIo, KEEP } from './channel-io.ts'

export interface SessionDeps {
  readonly socket: Socket
  /** A lease for this session; it resumes a paused instance. */
  lease(): Promise<InstanceLease>
  /** Why the instance does not run (any more), where it does not. */
  whyGone(): Promise<string | undefined>
  readonly onEnd: () => void
}

/** What a client may put into the environment of its commands (AcceptEnv of sshd_config(5)). */
const ACCEPTED_ENV = /^(?:LANG|LC_[A-Z_]{1,32}|TERM|COLORTERM|GIT_[A-Z_]{1,64})$/
const MAX_ENV = 64
const MAX_ENV_CHARS = 4096
const SIGHUP = 1
/** How long a command whose client is gone may take to end after SIGHUP, before it is killed. */
const HANG_UP_MS = 3_000

/** One session of a connection (RFC 4254, 6): a terminal, a command, or SFTP, run by the agent. */
export const serveSession = (session: Session, deps: SessionDeps): void => {
  const env: Record<string, string> = {}
  let pty: PseudoTtyInfo | undefined
  let process: AgentProcess | undefined
  const size = ({ cols, rows }: { cols: number; rows: number }) => ({
    cols: bounded(cols, 80),
    rows: bounded(rows, 24),
  })

  session.on('env', (accept, reject, { key, val }) => {
    const isAccepted = ACCEPTED_ENV.test(key) && val.length <= MAX_ENV_CHARS && !val.includes('\0')
    if (!isAccepted || Object.keys(env).length >= MAX_ENV) return reject?.()
    env[key] = val
    accept?.()
  })
  session.on('pty', (accept, _reject, info) => {
    pty = info
    accept?.()
  })
  session.on('window-change', (accept, _reject, info) => {
    if (pty) pty = { ...pty, ...info }
    process?.resize(size(info))
    accept?.()
  })
  session.on('signal', (accept, _reject, { name }) => {
    const number = constants.signals[`SIG${name}` as keyof typeof constants.signals]
    if (number !== undefined) process?.kill(number)
    accept?.()
  })
  const run = (channel: ServerChannel | undefined, argv: readonly string[]): void => {
    if (!channel) return
    const io = channelIo(channel, deps.socket)
    const start = (lease: InstanceLease): AgentProcess => {
      const { defaults } = lease
      process = lease.agent.exec({
        argv,
        user: defaults.user,
        workdir: defaults.workdir,
        env: { ...defaults.env, ...env, ...(pty && { TERM: /^[\w.+-]{1,64}$/.test(pty.term) ? pty.term : 'xterm' }) },
        stdin: 'pipe',
        ...(pty && { pty: size(pty) }),
      })
      return process
    }
    void runIn(io, deps, start).finally(deps.onEnd)
  }
  session.on('shell', (accept) => run(accept(), ['/bin/sh', '-c', LOGIN_SHELL]))
  session.on('exec', (accept, _reject, { command }) => run(accept(), ['/bin/sh', '-c', command]))
  session.on('subsystem', (accept, reject, { name }) => {
    if (name !== 'sftp') return reject()
    pty = undefined
    run(accept(), [SANDBOX_AGENT_PATH, 'sftp'])
  })
  // Closed before anything was asked to run.
  session.on('close', () => {
    if (!process) deps.onEnd()
  })
}

const bounded = (value: number, otherwise: number): number =>
  value === 0 ? otherwise : Math.max(1, Math.min(10_000, Math.trunc(value)))

/** Runs a command to its end, and tells the client how it ended. Never rejects. */
const runIn = async (
  io: ChannelIo,
  { lease: take, whyGone }: SessionDeps,
  start: (lease: InstanceLease) => AgentProcess,
) => {
  const { channel } = io
  try {
    using lease = await take()
    const ended = lease.ended.then(({ status, reason }) => {
      throw new Error(`the instance is ${status}${reason === undefined ? '' : `: ${reason}`}`)
    })
    ended.catch(() => {})
    const exit = await Promise.race([carry(io, start(lease)), ended])
    // By whom: the one who stopped the instance, most often.
    const why = exit.kind === 'signalled' ? await whyGone() : undefined
    if (why !== undefined) await io.write(channel.stderr, Buffer.from(`bramble: ${why}\r\n`))
    await tellExit(io, exit)
  } catch (thrown) {
    if (!io.signal.aborted) {
      const error = toBrambleError(thrown)
      await io.write(channel.stderr, Buffer.from(`bramble: ${error.detail}\r\n`)).catch(() => {})
      channel.exit(255)
    }
  }
  channel.end()
}

const carry = async (io: ChannelIo, process: AgentProcess): Promise<ProcessExit> => {
  const { channel, signal } = io
  let timer: NodeJS.Timeout | undefined
  const { cut, wait } = cutoff()
  const hangUp = (): void => {
    process.kill(SIGHUP)
    for (const stream of ['stdout', 'stderr'] as const) process.discard(stream)
    timer = setTimeout(cut, HANG_UP_MS, new Error('it did not end with its client')).unref()
  }
  if (signal.aborted) hangUp()
  else signal.addEventListener('abort', hangUp, { once: true })
  void feed(channel, process)
  const events = process[Symbol.asyncIterator]()
  try {
    for (;;) {
      const { value: event, done } = await wait(events.next())
      if (done) throw new Error('the command ended without saying how')
      if (event.type === 'exit') return event
      if (event.type === 'started' || signal.aborted) continue
      await io.write(event.type === 'stdout' ? channel : channel.stderr, event.data).catch(() => {})
    }
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', hangUp)
    void events.return?.()
  }
}

/** Standard input, until the client ends it. */
const feed = async (channel: ServerChannel, process: AgentProcess): Promise<void> => {
  try {
    for await (const data of channel.iterator(KEEP)) await process.write(data as Buffer)
    process.end()
  } catch {
    // The channel broke, or the command is over: its end says so.
  }
}

/** Signals that RFC 4254, 6.10 has a name for. */
const NAMED = ['ABRT', 'ALRM', 'FPE', 'HUP', 'ILL', 'INT', 'KILL', 'PIPE', 'QUIT', 'SEGV', 'TERM', 'USR1', 'USR2']

const tellExit = async ({ channel, write }: ChannelIo, exit: ProcessExit): Promise<void> => {
  switch (exit.kind) {
    case 'exited':
      channel.exit(exit.code)
      return
    case 'signalled': {
      const name = NAMED.find(
        (known) => constants.signals[`SIG${known}` as keyof typeof constants.signals] === exit.signal,
      )
      if (name === undefined) channel.exit(128 + exit.signal)
      else channel.exit(name, false, '')
      return
    }
    case 'failed':
      await write(channel.stderr, Buffer.from(`bramble: ${exit.message}\r\n`))
      channel.exit(exit.step === 'exec' && exit.errno === constants.errno.ENOENT ? 127 : 126)
      return
    default:
      exit satisfies never
  }
}
