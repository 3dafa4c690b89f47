import { readFile } from 'node:fs/promises'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import { type ConnectedAgent, connectAgent } from '../agent/connect-agent.ts'
import type { Networks, SandboxNetwork } from '../networks/networks.ts'
import type { Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { agentsOf, layerOfAgent } from './agent-layer.ts'
import { type Cgroups, readStats } from './cgroups.ts'
import { DEFAULT_HOSTNAME, ociConfig } from './config.ts'
import { connectAgentSocket } from './connect.ts'
import type { Criu } from './criu.ts'
import type { Freezer } from './freezer.ts'
import { type CreateRequest, LAUNCHER_OCI_STATE, LAUNCHER_RUN, type Launcher } from './launcher.ts'
import { restoredImages } from './restored-images.ts'
import { makeCgroups } from './sandbox-cgroups.ts'
import { sealSandbox } from './seal-sandbox.ts'
import { readInfo } from './seals.ts'
import type { UidRanges } from './uid-ranges.ts'

const MIB = 1024 * 1024
const NO_TRAFFIC = { egressBytes: 0, ingressBytes: 0 }
/** `struct sock_filter` of linux/filter.h. */
const BPF_INSTRUCTION_BYTES = 8

export interface OciContext {
  readonly name: string
  /** Where the image of the sandboxes' disks is. */
  readonly directory: string
  readonly cgroup: string
  readonly cgroups: Cgroups
  readonly layer: string
  readonly sandboxes: Map<SandboxId, OciSandbox>
  /** Kept sandboxes of an earlier process that this one has not attached to, with their first host ids. */
  readonly unattached: Map<SandboxId, number>
  /** Those that are being made or attached to, with their end where it was told before there was anyone to hear it. */
  readonly opening: Map<SandboxId, SandboxEnd | undefined>
  readonly getLauncher: () => Promise<Launcher>
  readonly uids: UidRanges
  readonly networks: Networks
  /** The layer with `/etc/resolv.conf` and `/etc/hosts` for a resolver and a host name. */
  readonly networkLayer: (resolver: string, hostname: string) => Promise<string>
  readonly swapAccounting: boolean
  readonly maxOpenFiles: number
  /** See `ConfigContext`; undefined before the first sandbox was made. */
  seccompBpf?: string
  /** Undefined where nothing can be paused. */
  freezer: Freezer | undefined
  /** Undefined where no memory can be saved. */
  criu: Criu | undefined
}

export interface OciSandbox extends Sandbox {
  /** Of its cgroups, below each hierarchy. */
  readonly cgroupPath: string
  readonly uidBase: number
  readonly network: SandboxNetwork | undefined
  /** The connection to its agent is over: it may be attached to again. */
  readonly lost: boolean
  /** The launcher says that the sandbox is gone, and has released what it held. */
  onEnded(detail: string, oomKills: number): void
  /** It is kept, and goes on without this process. */
  letGo(): void
}

const openSocket = async (launcher: Launcher, id: SandboxId): ReturnType<typeof connectAgentSocket> => {
  // Mounted in the launcher's namespace only.
  const path = `/proc/${launcher.pid}/root${LAUNCHER_RUN}/${id}/run/agent.sock`
  return await connectAgentSocket(path).catch((cause: unknown) => {
    if (cause instanceof BrambleError) throw cause
    // Root in the sandbox may have removed it.
    throw new BrambleError('sandbox_failed', {
      detail: `nobody listens at the agent's socket: ${String(cause)}`,
      cause,
    })
  })
}

/** `parked`: it may be, by a node that was killed, or in the seal that it continues. */
const openAgent = async (launcher: Launcher, id: SandboxId, parked: boolean): Promise<ConnectedAgent> =>
  await connectAgent(await openSocket(launcher, id), { parked })

/** What crun made of the profile for a sandbox: a program for seccomp(2), which it keeps in its state. */
const readCompiledSeccomp = async (launcher: Launcher, id: SandboxId): Promise<string> => {
  const path = `/proc/${launcher.pid}/root${LAUNCHER_OCI_STATE}/${id}/seccomp.bpf`
  const program = await readFile(path).catch(() => Buffer.alloc(0))
  return program.length % BPF_INSTRUCTION_BYTES === 0 ? program.toString('base64') : ''
}

/** Makes a sandbox and connects to its agent. Whatever fails, nothing is left but the layer of one that was to be kept. */
export const createSandbox = async (
  context: OciContext,
  config: SandboxConfig,
  signal?: AbortSignal,
): Promise<OciSandbox> => {
  signal?.throwIfAborted()
  const { id } = config
  const launcher = await context.getLauncher()
  if (config.keep && !launcher.keeps)
    throw new BrambleError('unsupported', { detail: 'sandboxes are kept on btrfs only, which this host has not' })
  const network = await takeNetwork(context, config)
  const uidBase = network?.uidBase ?? context.uids.take()
  const cgroupPath = `${context.cgroup}/${id}`
  // The launcher gives up what it has begun, and then says so to whoever waits for the creation.
  let ending: Promise<void> | undefined
  const abort = (): void => {
    ending ??= launcher.destroy(id).catch(() => {})
  }
  context.opening.set(id, undefined)
  let created = false
  let restored: Restore | undefined
  try {
    const hostname = config.hostname ?? DEFAULT_HOSTNAME
    const layers = network ? [await context.networkLayer(network.resolver, hostname)] : []
    if (config.from?.memory) restored = await prepareRestore(context, launcher, config, uidBase, network)
    // From here on the launcher has something to give up, and hears of it after the request.
    signal?.throwIfAborted()
    signal?.addEventListener('abort', abort, { once: true })
    await launcher.create({
      id,
      uidBase,
      diskBytes: config.resources.diskMb * MIB,
      layer: config.keep?.layer,
      lowers: [restored?.layer ?? context.layer, ...layers, config.image.rootfs],
      mounts: config.mounts,
      from: config.from?.seal,
      memory: restored?.memory,
      config: restored
        ? ''
        : ociConfig(config, {
            rootfs: `${LAUNCHER_RUN}/${id}/rootfs`,
            run: `${LAUNCHER_RUN}/${id}/run`,
            mounts: `${LAUNCHER_RUN}/${id}/v`,
            cgroupPath,
            uidBase,
            network,
            swapAccounting: context.swapAccounting,
            maxOpenFiles: context.maxOpenFiles,
            seccompBpf: context.seccompBpf ?? '',
          }),
    })
    created = true
    if (restored) await restored.settle()
    else context.seccompBpf ??= await readCompiledSeccomp(launcher, id)
    signal?.throwIfAborted()
    const agent = await openAgent(launcher, id, restored !== undefined)
    signal?.throwIfAborted()
    return track(context, { launcher, config, agent, uidBase, network, cgroupPath, paused: false })
  } catch (error) {
    if (created) abort()
    await ending
    if (!created) await restored?.undo()
    context.uids.release(uidBase)
    await network?.release().catch(() => {})
    signal?.throwIfAborted()
    throw error
  } finally {
    context.opening.delete(id)
    signal?.removeEventListener('abort', abort)
  }
}

interface Restore {
  readonly memory: NonNullable<CreateRequest['memory']>
  /** With the agent that its first process is. */
  readonly layer: string
  /** Its processes are there, and only they. */
  settle(): Promise<void>
  /** Of one that was not made. */
  undo(): Promise<void>
}

/** Makes ready what an OCI runtime would: the control groups; and the images of its processes that have another identity. */
const prepareRestore = async (
  context: OciContext,
  launcher: Launcher,
  config: SandboxConfig,
  uidBase: number,
  network: SandboxNetwork | undefined,
): Promise<Restore> => {
  const { id, resources, from, hostname = DEFAULT_HOSTNAME } = config
  if (context.criu === undefined || from === undefined)
    throw new BrambleError('unsupported', {
      detail: 'this host cannot restore the memory of sandboxes (`bramble doctor`)',
    })
  const images = await restoredImages(launcher, from.seal, { uidBase, hostname })
  const layer = await agentLayerOf(context, launcher, from.seal)
  const cgroups = await makeCgroups(context.cgroups, `${context.cgroup}/${id}`, resources, context.swapAccounting)
  return {
    // Without a network all connections are the sandbox's own, and both ends of them are there.
    memory: {
      connections: network === undefined ? 'keep' : 'close',
      images,
      network: network && {
        namespacePath: network.networkNamespacePath,
        address: network.address,
        host: network.resolver,
      },
    },
    layer,
    settle: cgroups.settle,
    undo: cgroups.remove,
  }
}

/** With the agent that the seal was made of: its process is mapped from that file. */
const agentLayerOf = async (context: OciContext, launcher: Launcher, seal: string): Promise<string> => {
  const agent = (await readInfo(launcher, seal)).memory?.requires.agent
  if (agent === undefined) return context.layer
  const layer = layerOfAgent(context.directory, agent)
  if (layer === context.layer || (await agentsOf(context.directory)).includes(agent)) return layer
  throw new BrambleError('snapshot_incompatible', {
    detail: `its memory is of the agent ${agent}, of another release of Bramble, which this host has not`,
  })
}

const takeNetwork = async (
  { networks }: OciContext,
  { id, network = 'none' }: SandboxConfig,
): Promise<SandboxNetwork | undefined> => (network === 'none' ? undefined : await networks.take(id, network))

const notFound = (id: SandboxId): BrambleError =>
  new BrambleError('not_found', { detail: `no kept sandbox ${id} runs on this host` })

/** A frozen agent cannot say hello: it runs for that long. */
const openFrozenAgent = async (context: OciContext, launcher: Launcher, id: SandboxId, cgroupPath: string) => {
  const { freezer } = context
  const paused = (await freezer?.isFrozen(cgroupPath)) ?? false
  if (!paused || freezer === undefined) return { agent: await openAgent(launcher, id, true), paused: false }
  await freezer.thaw(cgroupPath)
  try {
    const agent = await openAgent(launcher, id, true)
    await freezer.freeze(cgroupPath)
    return { agent, paused }
  } catch (error) {
    await freezer.freeze(cgroupPath).catch(() => {})
    throw error
  }
}

/** Takes over a kept sandbox that runs. What fails leaves it as it was. */
export const attachSandbox = async (
  context: OciContext,
  config: SandboxConfig,
  signal?: AbortSignal,
): Promise<OciSandbox> => {
  signal?.throwIfAborted()
  const { id } = config
  const launcher = await context.getLauncher()
  const held = context.sandboxes.get(id)
  if (held !== undefined) {
    if (!held.lost) throw new BrambleError('conflict', { detail: `the sandbox ${id} is attached to already` })
    held.letGo()
    context.uids.claim(held.uidBase)
    context.unattached.set(id, held.uidBase)
  }
  const uidBase = context.unattached.get(id)
  if (uidBase === undefined) throw notFound(id)
  context.unattached.delete(id)
  const cgroupPath = `${context.cgroup}/${id}`
  context.opening.set(id, undefined)
  let agent: ConnectedAgent | undefined
  try {
    const opened = await openFrozenAgent(context, launcher, id, cgroupPath)
    agent = opened.agent
    const { network: policy = 'none' } = config
    const network = held?.network ?? (policy === 'none' ? undefined : await context.networks.attach(id, policy))
    signal?.throwIfAborted()
    return track(context, { launcher, config, agent, uidBase, network, cgroupPath, paused: opened.paused })
  } catch (error) {
    await agent?.close()
    const kept = await launcher.kept().catch(() => [])
    if (kept.some((one) => one.id === id)) context.unattached.set(id, uidBase)
    else {
      context.uids.release(uidBase)
      void held?.network?.release().catch(() => {})
      throw notFound(id)
    }
    throw error
  } finally {
    context.opening.delete(id)
  }
}

interface Running {
  readonly launcher: Launcher
  readonly config: SandboxConfig
  readonly agent: ConnectedAgent
  readonly uidBase: number
  readonly network: SandboxNetwork | undefined
  readonly cgroupPath: string
  readonly paused: boolean
}

const track = (context: OciContext, running: Running): OciSandbox => {
  const { launcher, config, agent, uidBase, network, cgroupPath } = running
  const { id } = config
  const ended = Promise.withResolvers<SandboxEnd>()
  let over = false
  let paused = running.paused
  let destroying: Promise<void> | undefined
  let changing: Promise<unknown> = Promise.resolve()
  let lost = false
  void agent.closed.then(() => {
    lost = true
  })
  const forget = (): void => {
    over = true
    context.sandboxes.delete(id)
    context.uids.release(uidBase)
    void agent.close()
  }
  const finish = (end: SandboxEnd): void => {
    if (over) return
    forget()
    // The sandbox is gone, and what is left is the host's: nobody waits for it.
    void network?.release().catch(() => {})
    ended.resolve(end)
  }
  const destroy = (): Promise<void> => {
    if (over) return destroying ?? Promise.resolve()
    destroying ??= launcher.destroy(id).then(
      () => finish({ by: 'destroy' }),
      (error: unknown) => {
        // When the launcher itself is gone, the next one removes what is left.
        finish({ by: 'destroy' })
        throw error
      },
    )
    return destroying
  }
  const assertAlive = (cause?: unknown): void => {
    if (over || destroying) throw new BrambleError('sandbox_died', { detail: 'the sandbox has ended', cause })
  }
  // One after another: the last to be asked for is what holds.
  const next = <T>(change: () => Promise<T>): Promise<T> => {
    const done = changing
      .catch(() => {})
      .then(async () => {
        assertAlive()
        return await change().catch((cause: unknown) => {
          assertAlive(cause)
          throw cause
        })
      })
    changing = done
    return done
  }
  const setPaused = (wanted: boolean): Promise<void> =>
    next(async () => {
      if (wanted === paused) return
      const { freezer } = context
      if (freezer === undefined)
        throw new BrambleError('unsupported', { detail: 'this host has no freezer of control groups' })
      await (wanted ? freezer.freeze(cgroupPath) : freezer.thaw(cgroupPath))
      paused = wanted
    })
  const sandbox: OciSandbox = {
    id,
    runtime: context.name,
    config,
    agent,
    cgroupPath,
    uidBase,
    network,
    ...(network && { resolve: (name: string) => network.resolve(name) }),
    get lost() {
      return lost
    },
    ended: ended.promise,
    pause: () => setPaused(true),
    resume: () => setPaused(false),
    get paused() {
      return paused
    },
    seal: (options) =>
      next(() =>
        sealSandbox(
          {
            launcher,
            directory: context.directory,
            config,
            agent,
            freezer: context.freezer,
            criu: context.criu,
            cgroupPath,
            processes: `${context.cgroups.controller('pids') ?? context.cgroups.controller('memory')}${cgroupPath}/cgroup.procs`,
            paused,
            connect: () => openSocket(launcher, id),
          },
          options,
        ),
      ),
    stats: async () => {
      const [stats, diskBytes, traffic] = await Promise.all([
        readStats(context.cgroups, cgroupPath),
        over ? 0 : launcher.diskUsed(id).catch(() => 0),
        over ? NO_TRAFFIC : (network?.stats().catch(() => NO_TRAFFIC) ?? NO_TRAFFIC),
      ])
      return { ...stats, diskBytes, ...traffic }
    },
    destroy,
    onEnded: (detail, oomKills) => finish({ by: 'itself', detail, oomKills }),
    letGo: () => {
      if (!over) forget()
    },
    [Symbol.asyncDispose]: destroy,
  }
  context.sandboxes.set(id, sandbox)
  const early = context.opening.get(id)
  if (early !== undefined) finish(early)
  return sandbox
}
