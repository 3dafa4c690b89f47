import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Agent, AgentProcess, ExecRequest, ProcessEvent, ProcessExit } from '../agent.ts'
import { agentBinaryPath } from '../agent-binary.ts'
import { type ConnectedAgent, connectAgent } from '../connect-agent.ts'

const AGENT_SOURCES = fileURLToPath(new URL('../../../../agent', import.meta.url))

/** The agent's program, made if it is not there or its sources are newer. `AGENT_BINARY` names another build of it. */
export const buildAgent = async (): Promise<string> => {
  const other = process.env.AGENT_BINARY
  if (other !== undefined) return other
  await promisify(execFile)('make', ['-C', AGENT_SOURCES, 'build/agent'])
  return agentBinaryPath()
}

export interface SpawnedAgent extends AsyncDisposable {
  readonly child: ChildProcess
  readonly pid: number
  readonly binary: string
  /** A folder of this agent's own, for the test's files. */
  readonly folder: string
  /** A new stream to it, nothing read yet. */
  open(): Promise<Socket>
  connect(): Promise<ConnectedAgent>
  exited(): Promise<void>
}

export interface SpawnOptions {
  /** Serve one connection after another, as PID 1 of a sandbox does. */
  readonly keep?: boolean
  /** Take events of programs at `events.sock` in its folder. */
  readonly events?: boolean
  /** Run it as the first process of a new process namespace, which takes root. */
  readonly init?: boolean
  /** Run it as this user, which takes root, with at most so many processes of that user. */
  readonly uid?: number
  readonly processes?: number
}

/** An agent that listens on a socket in a folder of its own. */
export const spawnAgent = async (options: SpawnOptions = {}): Promise<SpawnedAgent> => {
  const { uid } = options
  const folder = await mkdtemp(join(tmpdir(), 'bramble-agent-'))
  let binary = await buildAgent()
  if (uid !== undefined) {
    // The checkout may be in a folder that this user cannot see.
    await copyFile(binary, join(folder, 'agent'))
    binary = join(folder, 'agent')
    await chown(folder, uid, uid)
  }
  const socket = join(folder, 'agent.sock')
  const args = [binary, '--listen', socket, '--ready-fd', '3', ...(options.keep ? ['--keep'] : [])]
  if (options.events) args.push('--events', join(folder, 'events.sock'))
  const wrapper = options.init
    ? ['unshare', '--pid', '--mount-proc', '--fork', '--kill-child']
    : options.processes !== undefined
      ? ['prlimit', `--nproc=${options.processes}`]
      : []
  const [program = binary, ...rest] = [...wrapper, ...args]
  const child = spawn(program, rest, {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
    ...(uid !== undefined && { uid, gid: uid }),
  })
  const ready = child.stdio[3]
  if (!(ready instanceof Duplex)) throw new Error('no ready pipe')
  await once(ready, 'data')
  ready.destroy()
  const exit = once(child, 'exit')
  const open = async (): Promise<Socket> => {
    const stream = connect(socket)
    await once(stream, 'connect')
    return stream
  }
  return {
    child,
    pid: child.pid ?? -1,
    binary,
    folder,
    open,
    connect: async () => connectAgent(await open()),
    exited: async () => {
      await exit
    },
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill(options.init ? 'SIGKILL' : 'SIGTERM')
      await exit
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** An agent over its standard streams. */
export const spawnStdioAgent = async (): Promise<{ agent: Agent; child: ChildProcess }> => {
  const child = spawn(await buildAgent(), ['--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const agent = await connectAgent(Duplex.from({ writable: child.stdin, readable: child.stdout }))
  return { agent, child }
}

export interface Ran {
  readonly stdout: string
  readonly stderr: string
  readonly exit: ProcessExit
  readonly types: ProcessEvent['type'][]
}

export const finish = async (command: AgentProcess): Promise<Ran> => {
  const output = { stdout: [] as Buffer[], stderr: [] as Buffer[] }
  const types: ProcessEvent['type'][] = []
  let exit: ProcessExit | undefined
  for await (const event of command) {
    types.push(event.type)
    if (event.type === 'stdout' || event.type === 'stderr') output[event.type].push(event.data)
    if (event.type === 'exit') exit = event
  }
  if (exit === undefined) throw new Error('no exit')
  const text = (pieces: Buffer[]): string => Buffer.concat(pieces).toString()
  return { stdout: text(output.stdout), stderr: text(output.stderr), exit, types }
}

export const run = (agent: Agent, argv: string[], request: Partial<ExecRequest> = {}): Promise<Ran> =>
  finish(agent.exec({ argv, env: { PATH: process.env.PATH ?? '' }, ...request }))

export const shell = (agent: Agent, script: string, request: Partial<ExecRequest> = {}): Promise<Ran> =>
  run(agent, ['sh', '-c', script], request)

/** A number of `/proc/PID/FILE`, for example `VmRSS` of `status` in KiB. */
export const procNumber = async (pid: number, file: string, name: string): Promise<number> => {
  const text = await readFile(`/proc/${pid}/${file}`, 'utf8')
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1])
}
