import { spawn } from 'node:child_process'
import { mkdir, realpath, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
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
  readonly own: Map<SandboxId, ProcessSandbox>
  /** Those that are being made included. */
  readonly ids: Set<SandboxId>
  /** Layers that a sandbox is being made on. */
  readonly busyLayers: Set<string>
}

export interface ProcessSandbox extends Sandbox {
  /** It is kept and runs, but the connection to its agent is over: it may be attached to again. */
  readonly lost: boolean
  /** It is kept, and goes on without this process, or as another object of it. */
  letGo(): Promise<void>
}

/** How soon the end of an agent without a connection is seen. */
const LOST_POLL_MS = 20
const MAX_STDERR_BYTES = 4096

/** Where commands begin: a directory of the sandbox's own, or a link to the layer of a kept one. */
export const homeOf = (directory: string) => join(directory, 'home')
export const pidFileOf = (directory: string) => join(directory, 'agent.pid')

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
    const home = homeOf(directory)
    const agent = localAgent(connected, { directory: home, agentPath: context.agentPath })
    return trackSandbox(context, { ...started, config, directory, home, agent })
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
  readonly identity: ProcessIdentity
  readonly stream: Duplex
  readonly exited: Promise<Exit>
}

/** How an agent ended. */
interface Exit {
  readonly detail: string
  /** Before it could end what its commands left. */
  readonly killed: boolean
}

const startAgent = async (agentPath: string, directory: string): Promise<Started> => {
  // A session of its own: the terminal's Ctrl-C is for the node, which ends its sandboxes in order.
  const child = spawn(agentPath, ['--stdio'], { cwd: homeOf(directory), env: {}, detached: true, stdio: 'pipe' })
  let stderr = ''
  child.stderr.on('data', (data) => {
    stderr = `${stderr}${data}`.slice(-MAX_STDERR_BYTES)
  })
  const exited = new Promise<Exit>((resolve) => {
    child.once('error', (error) => resolve({ detail: error.message, killed: false }))
    child.once('exit', (code, signal) =>
      resolve({ detail: `the agent ended with ${signal ?? code} ${stderr}`.trim(), killed: signal !== null }),
    )
  })
  const identity = child.pid === undefined ? undefined : await identify(child.pid)
  if (!identity) throw new Error((await exited).detail)
  await writePidFile(pidFileOf(directory), identity)
  return { identity, stream: Duplex.from({ readable: child.stdout, writable: child.stdin }), exited }
}

export interface Running {
  readonly config: SandboxConfig
  readonly directory: string
  /** Where its commands begin, with no link in it. */
  readonly home: string
  readonly agent: Agent
  readonly identity: ProcessIdentity
  /** Where the agent is our child. */
  readonly exited?: Promise<Exit>
}

/** A sandbox whose agent runs and is connected. */
export const trackSandbox = ({ own, ids }: ProcessContext, running: Running): ProcessSandbox => {
  const { config, directory, home, agent, identity, exited } = running
  const ended = Promise.withResolvers<SandboxEnd>()
  let destroyed = false
  let lost = false
  let letGone = false
  let released: Promise<void> | undefined
  let peakMemoryBytes = 0

  const forget = () => {
    own.delete(config.id)
    ids.delete(config.id)
  }
  const release = () => {
    released ??= (async () => {
      if (await runs(identity)) await endProcess(identity)
      if ((await exited)?.killed !== false) await killThoseIn(home)
      await agent.close()
      await rm(directory, { recursive: true, force: true, maxRetries: 3 })
      forget()
    })()
    return released
  }
  const destroy = async () => {
    if (letGone) return
    destroyed = true
    await release()
    ended.resolve({ by: 'destroy' })
  }
  const letGo = async () => {
    if (released) return
    letGone = true
    forget()
    await agent.close()
  }
  void agent.closed.then(async (error) => {
    const ours = () => !destroyed && !letGone
    // One that is killed closes its connection a moment before it is gone; one that only lost it is attached to again.
    while (ours() && config.keep && (await runs(identity))) {
      lost = true
      await delay(LOST_POLL_MS, undefined, { ref: false })
    }
    if (!ours()) return
    lost = false
    await release().catch(() => undefined)
    const detail = [(await exited)?.detail ?? 'the agent ended', error?.message].filter(Boolean).join('; ')
    if (!destroyed) ended.resolve({ by: 'itself', detail, oomKills: 0 })
  })

  const sandbox: ProcessSandbox = {
    id: config.id,
    runtime: 'process',
    config,
    agent,
    ended: ended.promise,
    ...withoutPause,
    stats: async () => {
      const stats = await readStats(identity.pid, home)
      peakMemoryBytes = Math.max(peakMemoryBytes, stats.memoryBytes)
      return { ...stats, peakMemoryBytes }
    },
    get lost() {
      return lost
    },
    letGo,
    destroy,
    [Symbol.asyncDispose]: destroy,
  }
  own.set(config.id, sandbox)
  return sandbox
}

const runs = async ({ pid, startTicks }: ProcessIdentity): Promise<boolean> =>
  (await identify(pid))?.startTicks === startTicks

/** Ends what an earlier process left in `directory`, and removes it. */
export const removeLeft = async (directory: string): Promise<void> => {
  const identity = await readPidFile(pidFileOf(directory))
  if (identity) await endProcess(identity)
  await killThoseIn(await realpath(homeOf(directory)).catch(() => directory))
  await rm(directory, { recursive: true, force: true, maxRetries: 3 })
}
