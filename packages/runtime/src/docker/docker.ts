import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { BrambleError, newId, type SandboxId } from '@bramble/protocol'
import type Docker from 'dockerode'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import type { LocalImage } from '../images/image-store.ts'
import type { Capabilities, Probe, Runtime, SandboxConfig } from '../runtime.ts'
import { withoutKeep } from '../without.ts'
import { containerOptions, NODE_LABEL, SANDBOX_LABEL } from './container.ts'
import { connectEngine, type EngineOptions, statusOf, wordsOf } from './engine.ts'
import { watchOom } from './events.ts'
import { type AgentProgram, loadImage, readAgent, removeImage, tagOf } from './image.ts'
import { createSandbox, type DockerContext, removeContainer } from './sandbox.ts'

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

const openRuntime = async (
  engine: Docker,
  info: EngineInfo,
  agent: AgentProgram,
  deps: DockerDeps,
): Promise<Runtime> => {
  const node = createHash('sha256').update(resolve(deps.dataDirectory)).digest('hex').slice(0, 16)
  const probeTag = tagOf('probe', agent)
  await loadImage(engine, probeTag, agent, undefined, undefined)
  const context: DockerContext = {
    engine,
    node,
    diskQuota: await hasDiskQuota(engine, node, probeTag),
    cgroupVersion: info.CgroupVersion === '2' ? 2 : 1,
    oom: await watchOom(engine, node),
    own: new Map(),
    ids: new Set(),
  }
  try {
    // It is tried, not believed: the seccomp profile, the limits and the attached streams have to work together.
    const probe = { id: newId('sandbox'), resources: PROBE_RESOURCES } as SandboxConfig
    const sandbox = await createSandbox(context, probe, probeTag, undefined)
    await sandbox.destroy()
  } catch (error) {
    context.oom.close()
    throw error
  }
  return makeRuntime(context, capabilitiesOf(info, context.diskQuota), agent)
}

const capabilitiesOf = (info: EngineInfo, diskQuota: boolean): Capabilities => {
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
    pause: false,
    checkpoint: false,
    keep: false,
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
  const { engine, node, own, ids } = context
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

  const create = async (config: SandboxConfig, signal?: AbortSignal) => {
    const tag = tagOf(config.image.digest, agent)
    try {
      return await createSandbox(context, config, tag, signal)
    } catch (error) {
      if (statusOf(error) !== 404) throw asFailure(error, signal)
    }
    // The engine does not have the image: nobody readied it, or somebody removed it behind our back.
    prepared.delete(config.image.digest)
    await prepare(config.image, signal)
    return createSandbox(context, config, tag, signal).catch((error) => {
      throw asFailure(error, signal)
    })
  }

  const list = async () => {
    const filters = { label: [`${NODE_LABEL}=${node}`] }
    const containers = await engine.listContainers({ all: true, filters })
    return containers.map(({ Id, Labels }) => ({ container: Id, id: Labels[SANDBOX_LABEL] as SandboxId }))
  }

  const close = () => {
    closed ??= (async () => {
      await Promise.allSettled(creating)
      await Promise.all([...own.values()].map((sandbox) => sandbox.destroy()))
      context.oom.close()
    })()
    return closed
  }

  return {
    name: 'docker',
    capabilities,
    prepare: (image, { signal } = {}) => prepare(image, signal),
    create: (config, { signal } = {}) => {
      if (closed) return Promise.reject(new BrambleError('shutting_down', { detail: 'the runtime is closed' }))
      const made = create(config, signal)
      creating.add(made)
      const done = () => void creating.delete(made)
      made.then(done, done)
      return made
    },
    list: async () => (await list()).map(({ id }) => id),
    reap: async () => {
      const left = (await list()).filter(({ id }) => !ids.has(id))
      await Promise.all(left.map(({ container }) => removeContainer(engine.getContainer(container))))
      return left.length
    },
    ...withoutKeep,
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
