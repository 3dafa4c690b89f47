import { BrambleError, type SandboxId } from '@bramble/protocol'
import type Docker from 'dockerode'
import type { Agent } from '../agent/agent.ts'
import { connectAgent } from '../agent/connect-agent.ts'
import { layerInUse } from '../layer-in-use.ts'
import type { Layers, Sandbox, SandboxConfig } from '../runtime.ts'
import {
  AGENT_SOCKET,
  containerOptions,
  idOf,
  LAYER_LABEL,
  limitsOf,
  NODE_LABEL,
  nameOf,
  READER_LABEL,
} from './container.ts'
import { refreshAgent } from './image.ts'
import { demultiplex } from './multiplexed.ts'
import { asFailed, type DockerContext, removeContainer, stopContainer, trackSandbox } from './sandbox.ts'

/** A container of this node. Of a kept sandbox it is the layer too, and stays when it is stopped. */
export interface Found {
  readonly container: Docker.Container
  readonly id: SandboxId
  readonly layer: string | undefined
  /** Files of a seal are read by it. */
  readonly reader: boolean
  readonly alive: boolean
  readonly paused: boolean
}

/** The type of the library lacks the option. */
const WITH_SIZE: object = { size: true }
const RELAY = ['/.bramble/agent', 'relay', AGENT_SOCKET]

export const findContainers = async ({ engine, node }: Pick<DockerContext, 'engine' | 'node'>): Promise<Found[]> => {
  const filters = { label: [`${NODE_LABEL}=${node}`] }
  const containers = await engine.listContainers({ all: true, filters })
  return containers.map(({ Id, Names, Labels, State }) => ({
    container: engine.getContainer(Id),
    id: idOf(Names),
    layer: Labels[LAYER_LABEL] || undefined,
    reader: Labels[READER_LABEL] === 'true',
    alive: State === 'running' || State === 'paused',
    paused: State === 'paused',
  }))
}

/** Those that are sandboxes: a kept one that does not run is a layer, no more. */
export const isSandbox = ({ layer, reader, alive }: Found): boolean => !reader && (layer === undefined || alive)

/**
 * The agent's stream of a container that runs: a program in it carries it from the agent's socket. It ends with our
 * connection, whatever becomes of this process, and the agent takes the next one.
 */
const connectRelay = async (
  container: Docker.Container,
  signal: AbortSignal | undefined,
): Promise<{ agent: Agent; stderr: () => string }> => {
  const streams = { AttachStdin: true, AttachStdout: true, AttachStderr: true, Tty: false }
  const exec = await container.exec({ Cmd: RELAY, User: '0:0', WorkingDir: '/', ...streams })
  signal?.throwIfAborted()
  const { stream, stderr } = demultiplex(await exec.start({ hijack: true, stdin: true }))
  try {
    return { agent: await connectAgent(stream, { signal }), stderr }
  } catch (cause) {
    signal?.throwIfAborted()
    throw asFailed(cause, stderr())
  }
}

/**
 * Starts the container that is the layer of `config.keep`, or makes it. What fails leaves a layer that was there before as
 * it was, and nothing else.
 */
export const createKept = async (
  context: DockerContext,
  config: SandboxConfig & { keep: { layer: string } },
  image: string,
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  const { layer } = config.keep
  signal?.throwIfAborted()
  if (context.busyLayers.has(layer)) throw layerInUse(layer)
  context.busyLayers.add(layer)
  context.ids.add(config.id)
  let container: Docker.Container | undefined
  let undo = removeContainer
  try {
    const before = (await findContainers(context)).find((found) => found.layer === layer)
    if (before?.alive) throw layerInUse(layer)
    if (before && config.from) throw new BrambleError('conflict', { detail: `there is a layer ${layer} already` })
    if (before) {
      undo = stopContainer
      container = before.container
      if (before.id !== config.id) await container.rename({ name: nameOf(config.id) })
      await container.update(limitsOf(config.resources))
      // The sandbox may have changed it, and the host's may be a newer one.
      await refreshAgent(container, context.agent)
    } else {
      container = await context.engine.createContainer(containerOptions(config, { ...context, image }))
      if (config.from) await refreshAgent(container, context.agent)
    }
    signal?.throwIfAborted()
    await container.start()
    const { agent, stderr } = await connectRelay(container, signal)
    return trackSandbox(context, { config, container, agent, stderr, paused: false })
  } catch (error) {
    if (container) await undo(container)
    context.ids.delete(config.id)
    signal?.throwIfAborted()
    throw error
  } finally {
    context.busyLayers.delete(layer)
  }
}

/** Takes over a kept sandbox that runs. What fails leaves it as it was. */
export const attachKept = async (
  context: DockerContext,
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
    const found = (await findContainers(context)).find((each) => each.id === id && each.layer !== undefined)
    if (!found?.alive) throw new BrambleError('not_found', { detail: `no kept sandbox ${id} runs in this engine` })
    const { container, paused } = found
    // Nothing can be started in a paused container, nor would its agent say hello: it runs for that long.
    if (paused) await container.unpause()
    const again = paused ? () => container.pause() : async () => undefined
    const { agent, stderr } = await connectRelay(container, signal).finally(again)
    return trackSandbox(context, { config, container, agent, stderr, paused })
  } catch (error) {
    context.ids.delete(id)
    throw error
  }
}

export const dockerLayers = (context: DockerContext): Layers => {
  const find = async (layer: string) => (await findContainers(context)).find((found) => found.layer === layer)
  return {
    list: async () => (await findContainers(context)).flatMap(({ layer }) => (layer === undefined ? [] : [layer])),
    usedBytes: async (layer) => {
      const found = await find(layer)
      const { SizeRw } = ((await found?.container.inspect(WITH_SIZE)) ?? {}) as { SizeRw?: number }
      return SizeRw ?? 0
    },
    remove: async (layer) => {
      const found = await find(layer)
      if (found?.alive || context.busyLayers.has(layer)) throw layerInUse(layer)
      if (found) await removeContainer(found.container)
    },
  }
}
