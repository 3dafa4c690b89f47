import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { BrambleError, newId } from '@bramble/protocol'
import type Docker from 'dockerode'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import type { LocalImage } from '../images/image-store.ts'
import type { Capabilities, Probe, Runtime, SandboxConfig } from '../runtime.ts'
import { containerOptions } from './container.ts'
import { connectEngine, type EngineOptions, statusOf, wordsOf } from './engine.ts'
import { watchEngine } from './events.ts'
import { type AgentProgram, loadImage, readAgent, removeImage, tagOf } from './image.ts'
import { attachKept, createKept, dockerLayers, findContainers, isSandbox } from './kept.ts'
import { createSandbox, type DockerContext, removeContainer, stopContainer } from './sandbox.ts'
import { pruneSealImages } from './seal-images.ts'
import { sealReaders } from './seal-reader.ts'
import { dockerSeals, sealContainer, sealedImages } from './seals.ts'

export type DockerOptions = EngineOptions

export interface DockerDeps {
  /** Directory of this node: it names the node's sandboxes in the engine. Nothing is written there. */
  readonly dataDirectory: string
  /** The agent's program. Default: the one that `bramble setup` builds. */
  readonly agentPath?: string
}

interface EngineInfo {
  MemoryLimit?: boolean
  CpuCfsQuota?: boolean
  PidsLimit?: boolean
  CgroupVersion?: string
  SecurityOptions?: string[]
}

const HINT = 'start a Docker Engine and let this user reach its socket (DOCKER_HOST names another one)'
const PROBE_RESOURCES = { cpus: 1, memoryMb: 16, diskMb: 16, pids: 8 }

/**
 * Sandboxes as containers of a Docker Engine, here, remote, or in Docker Desktop's machine: the image and the agent go in
 * through the engine's API, and the agent speaks over the attached standard streams. No path of this host is mounted.
 */
export const docker =
  (options: DockerOptions = {}) =>
  async (deps: DockerDeps): Promise<Probe<Runtime>> => {
    let engine: Docker
    let info: EngineInfo
    try {
      engine = await connectEngine(options)
      info = (await engine.info()) as EngineInfo
    } catch (error) {
      return { available: false, reason: `no Docker Engine answers: ${wordsOf(error)}`, hint: HINT }
    }
    try {
      const agent = await readAgent(deps.agentPath ?? agentBinaryPath())
      return { available: true, runtime: await openRuntime(engine, info, agent, deps) }
    } catch (error) {
      const reason = error instanceof BrambleError ? error.detail : wordsOf(error)
      return { available: false, reason: `a first sandbox failed: ${reason}`, hint: HINT }
    }
  }

/** What the containers of a data directory are labelled with. */
export const nodeOf = (dataDirectory: string): string =>
  createHash('sha256').update(resolve(dataDirectory)).digest('hex').slice(0, 16)

const openRuntime = async (
  engine: Docker,
  info: EngineInfo,
  agent: AgentProgram,
  deps: DockerDeps,
): Promise<Runtime> => {
  const node = nodeOf(deps.dataDirectory)
  const probeTag = tagOf('probe', agent)
  await loadImage(engine, probeTag, agent, undefined, undefined)
  const context: DockerContext = {
    engine,
    node,
    diskQuota: await hasDiskQuota(engine, node, probeTag),
    cgroupVersion: info.CgroupVersion === '2' ? 2 : 1,
    events: await watchEngine(engine, node),
    own: new Map(),
    ids: new Set(),
    busyLayers: new Set(),
    agent,
    pause: true,
    seal: (sandbox, options) => sealContainer(context, sandbox, options),
  }
  try {
    // It is tried, not believed: the seccomp profile, the limits and the attached streams have to work together.
    const probe = { id: newId('sandbox'), resources: PROBE_RESOURCES } as SandboxConfig
    const sandbox = await createSandbox(context, probe, probeTag, undefined)
    context.pause = await sandbox.pause().then(
      () => true,
      () => false,
    )
    await sandbox.destroy()
  } catch (error) {
    context.events.close()
    throw error
  }
  const keep = await canKeep(context, probeTag)
  const { pause } = context
  // A state is one of a moment only where the sandbox stands still for it.
  return makeRuntime(context, { ...capabilitiesOf(info, context.diskQuota), keep, pause, seals: pause }, agent)
}

/** Whether a container goes on without us, and a program run in it reaches its agent. */
const canKeep = async (context: DockerContext, image: string): Promise<boolean> => {
  const id = newId('sandbox')
  const keep = { layer: `probe-${id}` }
  const made = createKept(context, { id, resources: PROBE_RESOURCES, keep } as never, image, undefined)
  const kept = await made.then(
    (sandbox) => sandbox.destroy().then(() => true),
    () => false,
  )
  await dockerLayers(context).remove(keep.layer)
  return kept
}

const capabilitiesOf = (info: EngineInfo, diskQuota: boolean): Omit<Capabilities, 'keep' | 'pause' | 'seals'> => {
  const security = info.SecurityOptions ?? []
  const has = (name: string) => security.some((option) => option.split(',').includes(`name=${name}`))
  return {
    isolation: 'container',
    limits: {
      cpu: info.CpuCfsQuota === true,
      memory: info.MemoryLimit === true,
      pids: info.PidsLimit === true,
      disk: diskQuota,
    },
    userNamespace: has('userns') || has('rootless'),
    seccomp: has('seccomp'),
    // The engine's own is experimental, and does not continue what it saved.
    checkpoint: false,
    volumes: false,
    network: ['none'],
  }
}

/** Whether the engine's storage can bound a container's writable layer: few back ends can, and the others refuse. */
const hasDiskQuota = async (engine: Docker, node: string, image: string): Promise<boolean> => {
  const config = { id: newId('sandbox'), resources: PROBE_RESOURCES }
  try {
    const container = await engine.createContainer(containerOptions(config, { image, node, diskQuota: true }))
    await removeContainer(container)
    return true
  } catch {
    return false
  }
}

const makeRuntime = (context: DockerContext, capabilities: Capabilities, agent: AgentProgram): Runtime => {
  const { engine, own, ids } = context
  const prepared = new Map<string, Promise<void>>()
  const creating = new Set<Promise<unknown>>()
  let closed: Promise<void> | undefined

  const prepare = async (image: LocalImage, signal?: AbortSignal): Promise<void> => {
    signal?.throwIfAborted()
    const { digest } = image
    // The work is shared, so it is not one caller's to abort: an abort only ends the wait.
    let work = prepared.get(digest)
    if (!work) {
      work = loadImage(engine, tagOf(digest, agent), agent, image.rootfs, undefined)
      work.catch(() => prepared.delete(digest))
      prepared.set(digest, work)
    }
    await (signal ? Promise.race([work, abortOf(signal)]) : work)
  }

  const readers = sealReaders(context)
  const sealed = sealedImages(context, readers, (image) => prepare(image))

  const create = async (config: SandboxConfig, signal?: AbortSignal) => {
    signal?.throwIfAborted()
    const tag = config.from ? await sealed(config) : tagOf(config.image.digest, agent)
    const { keep } = config
    const make = () =>
      keep ? createKept(context, { ...config, keep }, tag, signal) : createSandbox(context, config, tag, signal)
    try {
      return await make()
    } catch (error) {
      if (statusOf(error) !== 404 || config.from) throw asFailure(error, signal)
    }
    // The engine does not have the image: nobody readied it, or somebody removed it behind our back.
    prepared.delete(config.image.digest)
    await prepare(config.image, signal)
    return make().catch((error) => {
      throw asFailure(error, signal)
    })
  }

  /** What `close` waits for. */
  const pending = <T>(made: Promise<T>): Promise<T> => {
    creating.add(made)
    const done = () => void creating.delete(made)
    made.then(done, done)
    return made
  }

  const close = () => {
    closed ??= (async () => {
      await Promise.allSettled(creating)
      await Promise.all([...own.values()].map((each) => (each.config.keep ? each.letGo() : each.destroy())))
      await readers.close()
      context.events.close()
    })()
    return closed
  }

  return {
    name: 'docker',
    capabilities,
    prepare: (image, { signal } = {}) => prepare(image, signal),
    create: (config, { signal } = {}) => {
      if (closed) return Promise.reject(new BrambleError('shutting_down', { detail: 'the runtime is closed' }))
      return pending(create(config, signal))
    },
    attach: (config, { signal } = {}) => {
      if (closed) return Promise.reject(new BrambleError('shutting_down', { detail: 'the runtime is closed' }))
      return pending(attachKept(context, config, signal).catch((error) => Promise.reject(asFailure(error, signal))))
    },
    list: async () => (await findContainers(context)).filter(isSandbox).map(({ id }) => id),
    reap: async (keep = new Set()) => {
      const all = await findContainers(context)
      const left = all
        .filter(isSandbox)
        .filter(({ id, layer }) => !ids.has(id) && !(layer !== undefined && keep.has(id)))
      await Promise.all(
        left.map(({ container, layer }) => (layer ? stopContainer(container) : removeContainer(container))),
      )
      const unread = all.filter(({ reader, container }) => reader && !readers.owns(container.id))
      await Promise.all(unread.map(({ container }) => removeContainer(container)))
      await pruneSealImages(context)
      return left.length
    },
    ...(capabilities.seals && { seals: dockerSeals(context, readers) }),
    layers: dockerLayers(context),
    forget: async (digest) => {
      prepared.delete(digest)
      await removeImage(engine, tagOf(digest, agent))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

const abortOf = (signal: AbortSignal): Promise<never> =>
  new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))

const asFailure = (error: unknown, signal: AbortSignal | undefined): unknown => {
  if (signal?.aborted || error instanceof BrambleError) return error
  return new BrambleError('sandbox_failed', { detail: wordsOf(error), cause: error })
}
