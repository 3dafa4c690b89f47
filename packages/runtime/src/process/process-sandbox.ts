import { type ChildProcess, spawn } from 'node:child_process'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { Agent } from '../agent/agent.ts'
import { connectAgent } from '../agent/connect-agent.ts'
import type { Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { withoutPause } from '../without.ts'
import { localAgent } from './local-agent.ts'
import { endProcess, identify, killThoseIn, type ProcessIdentity, readPidFile, writePidFile } from './pid-file.ts'
import { readStats } from './process-stats.ts'

export interface ProcessContext {
  /** Has a directory for each sandbox. */
  readonly directory: string
  readonly agentPath: string
  readonly own: Map<SandboxId, Sandbox>
  /** Those that are being made included. */
  readonly ids: Set<SandboxId>
}

const MAX_STDERR_BYTES = 4096

const homeOf = (directory: string) => join(directory, 'home')
const pidFileOf = (directory: string) => join(directory, 'agent.pid')

/** Starts an agent in a new directory. A failure or an abort ends it and removes the directory. */
export const createSandbox = async (
  context: ProcessContext,
  config: SandboxConfig,
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  signal?.throwIfAborted()
  const directory = join(context.directory, config.id)
  context.ids.add(config.id)
  let started: Started | undefined
  try {
    await mkdir(directory, { mode: 0o700 })
    await mkdir(homeOf(directory), { mode: 0o700 })
    started = await startAgent(context.agentPath, directory)
    const connected = await connectAgent(started.stream, { signal })
    const agent = localAgent(connected, { directory: homeOf(directory), agentPath: context.agentPath })
    return makeSandbox(context, config, directory, agent, started)
  } catch (cause) {
    if (started) await endProcess(started.identity)
    await rm(directory, { recursive: true, force: true })
    context.ids.delete(config.id)
    signal?.throwIfAborted()
    if (cause instanceof BrambleError) throw cause
    throw new BrambleError('sandbox_failed', { detail: cause instanceof Error ? cause.message : String(cause), cause })
  }
}

interface Started {
  readonly child: ChildProcess
  readonly identity: ProcessIdentity
  readonly stream: Duplex
  /** Resolves with how the agent ended. */
  readonly exited: Promise<string>
}

const startAgent = async (agentPath: string, directory: string): Promise<Started> => {
  // A session of its own: the terminal's Ctrl-C is for the node, which ends its sandboxes in order.
  const child = spawn(agentPath, ['--stdio'], { cwd: homeOf(directory), env: {}, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.on('data', (data) => {
    stderr = `${stderr}${data}`.slice(-MAX_STDERR_BYTES)
  })
  const exited = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(`the agent ended with ${signal ?? code} ${stderr}`.trim()))
  })
  const identity = child.pid === undefined ? undefined : await identify(child.pid)
  if (!identity) throw new Error(await exited)
  await writePidFile(pidFileOf(directory), identity)
  return { child, identity, stream: Duplex.from({ readable: child.stdout, writable: child.stdin }), exited }
}

const makeSandbox = (
  { own, ids }: ProcessContext,
  config: SandboxConfig,
  directory: string,
  agent: Agent,
  { child, identity, exited }: Started,
): Sandbox => {
  const ended = Promise.withResolvers<SandboxEnd>()
  let destroyed = false
  let released: Promise<void> | undefined
  let peakMemoryBytes = 0

  const release = () => {
    released ??= (async () => {
      if (child.exitCode === null && child.signalCode === null) await endProcess(identity)
      await exited
      // The agent ends what its commands left, unless it was killed before it could.
      if (child.signalCode !== null) await killThoseIn(directory)
      await agent.close()
      await rm(directory, { recursive: true, force: true, maxRetries: 3 })
      own.delete(config.id)
      ids.delete(config.id)
    })()
    return released
  }
  const destroy = async () => {
    destroyed = true
    await release()
    ended.resolve({ by: 'destroy' })
  }
  void agent.closed.then(async (error) => {
    if (destroyed) return
    await release().catch(() => undefined)
    const detail = [await exited, error?.message].filter(Boolean).join('; ')
    if (!destroyed) ended.resolve({ by: 'itself', detail, oomKills: 0 })
  })

  const sandbox: Sandbox = {
    id: config.id,
    runtime: 'process',
    config,
    agent,
    ended: ended.promise,
    ...withoutPause,
    stats: async () => {
      const stats = await readStats(identity.pid, homeOf(directory))
      peakMemoryBytes = Math.max(peakMemoryBytes, stats.memoryBytes)
      return { ...stats, peakMemoryBytes }
    },
    destroy,
    [Symbol.asyncDispose]: destroy,
  }
  own.set(config.id, sandbox)
  return sandbox
}

/** Ends what an earlier process left in `directory`, and removes it. */
export const removeLeft = async (directory: string): Promise<void> => {
  const identity = await readPidFile(pidFileOf(directory))
  if (identity) await endProcess(identity)
  await killThoseIn(directory)
  await rm(directory, { recursive: true, force: true, maxRetries: 3 })
}
