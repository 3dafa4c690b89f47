import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, open, readdir, readFile, readlink, rm, symlink } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Readable } from 'node:stream'
import { BrambleError, type SandboxId, sandboxIdSchema } from '@bramble/protocol'
import { connectAgent } from '../agent/connect-agent.ts'
import { layerInUse } from '../layer-in-use.ts'
import { connectAgentSocket } from '../oci/connect.ts'
import type { Layers, Sandbox, SandboxConfig } from '../runtime.ts'
import { localAgent } from './local-agent.ts'
import { identify, type ProcessIdentity, readPidFile, writePidFile } from './pid-file.ts'
import { homeOf, type ProcessContext, pidFileOf, removeLeft, trackSandbox } from './process-sandbox.ts'
import { directoryBytes } from './process-stats.ts'

interface Kept {
  readonly id: SandboxId
  readonly layer: string
  /** Of its agent; undefined when that is gone. */
  readonly identity: ProcessIdentity | undefined
}

const LAYERS = 'layers'
const AGENT_SOCKET = 'agent.sock'
const EVENTS_SOCKET = 'events.sock'
/** What the agent says on standard error when it does not start. */
const ERRORS = 'agent.err'
const NAME = /^[\w-]{1,128}$/

const layerPath = ({ directory }: ProcessContext, layer: string): string => {
  if (!NAME.test(layer)) throw new BrambleError('invalid_request', { detail: `${layer} is no name of a layer` })
  return join(directory, LAYERS, layer)
}

/** The kept sandboxes of the directory, whether their agents run or not. */
export const findKept = async ({ directory }: ProcessContext): Promise<Kept[]> => {
  const found = await Promise.all(
    (await readdir(directory)).map(async (name): Promise<Kept | undefined> => {
      const id = sandboxIdSchema.safeParse(name)
      const link = await readlink(homeOf(join(directory, name))).catch(() => undefined)
      if (!id.success || link === undefined) return undefined
      return { id: id.data, layer: basename(link), identity: await readPidFile(pidFileOf(join(directory, name))) }
    }),
  )
  return found.filter((kept) => kept !== undefined)
}

/** Starts an agent that goes on without us, in a directory whose home is the layer. What fails leaves the layer alone. */
export const createKept = async (
  context: ProcessContext,
  config: SandboxConfig & { keep: { layer: string } },
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  signal?.throwIfAborted()
  const { layer } = config.keep
  const home = layerPath(context, layer)
  if (context.busyLayers.has(layer)) throw layerInUse(layer)
  context.busyLayers.add(layer)
  context.ids.add(config.id)
  const directory = join(context.directory, config.id)
  try {
    const before = (await findKept(context)).filter((kept) => kept.layer === layer)
    if (before.some(({ identity }) => identity)) throw layerInUse(layer)
    await Promise.all(before.map(({ id }) => removeLeft(join(context.directory, id))))
    await mkdir(home, { recursive: true, mode: 0o700 })
    await mkdir(directory, { mode: 0o700 })
    await symlink(home, homeOf(directory))
    const identity = await startKept(context.agentPath, directory)
    return await connect(context, { config, directory, home, identity }, signal)
  } catch (cause) {
    const conflict = cause instanceof BrambleError && cause.code === 'conflict'
    if (!conflict) await removeLeft(directory)
    context.ids.delete(config.id)
    signal?.throwIfAborted()
    if (cause instanceof BrambleError) throw cause
    throw new BrambleError('sandbox_failed', { detail: cause instanceof Error ? cause.message : String(cause), cause })
  } finally {
    context.busyLayers.delete(layer)
  }
}

const startKept = async (agentPath: string, directory: string): Promise<ProcessIdentity> => {
  const errors = await open(join(directory, ERRORS), 'w', 0o600)
  try {
    // Names in its working directory: that of the sandbox may be longer than the address of a socket.
    const args = ['--listen', AGENT_SOCKET, '--events', EVENTS_SOCKET, '--keep', '--ready-fd', '3']
    const stdio = ['ignore', 'ignore', errors.fd, 'pipe'] as const
    const child = spawn(agentPath, args, { cwd: directory, env: {}, detached: true, stdio: [...stdio] })
    child.unref()
    const ready = child.stdio[3] as Readable
    const exited = once(child, 'exit').then(() => [])
    const [said] = await Promise.race([once(ready, 'data'), exited])
    ready.destroy()
    const identity = child.pid === undefined ? undefined : await identify(child.pid)
    if (said === undefined || !identity)
      throw new Error(`the agent ended: ${await readFile(join(directory, ERRORS), 'utf8')}`)
    await writePidFile(pidFileOf(directory), identity)
    return identity
  } finally {
    await errors.close()
  }
}

const connect = async (
  context: ProcessContext,
  found: { config: SandboxConfig; directory: string; home: string; identity: ProcessIdentity },
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  const { directory, home } = found
  const connected = await connectAgent(await connectAgentSocket(join(directory, AGENT_SOCKET)), { signal })
  const events = join(directory, EVENTS_SOCKET)
  const agent = localAgent(connected, { directory: home, agentPath: context.agentPath, events })
  return trackSandbox(context, { ...found, agent })
}

/** Takes over a kept sandbox whose agent runs. What fails leaves it as it was. */
export const attachKept = async (
  context: ProcessContext,
  config: SandboxConfig,
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  signal?.throwIfAborted()
  const { id } = config
  const held = context.own.get(id)
  if (held?.lost) await held.letGo()
  if (context.ids.has(id)) throw new BrambleError('conflict', { detail: `the sandbox ${id} is attached to already` })
  context.ids.add(id)
  try {
    const kept = (await findKept(context)).find((each) => each.id === id)
    if (!kept?.identity) throw new BrambleError('not_found', { detail: `no kept sandbox ${id} runs here` })
    const { identity, layer } = kept
    const directory = join(context.directory, id)
    return await connect(context, { config, directory, home: layerPath(context, layer), identity }, signal)
  } catch (error) {
    context.ids.delete(id)
    throw error
  }
}

export const processLayers = (context: ProcessContext): Layers => ({
  list: () => readdir(join(context.directory, LAYERS)).catch(() => []),
  usedBytes: async (layer) => await directoryBytes(layerPath(context, layer)),
  remove: async (layer) => {
    const path = layerPath(context, layer)
    const on = (await findKept(context)).some((kept) => kept.layer === layer && kept.identity)
    if (on || context.busyLayers.has(layer)) throw layerInUse(layer)
    await rm(path, { recursive: true, force: true, maxRetries: 3 })
  },
})
