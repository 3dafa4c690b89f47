import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, realpath, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import type { Networks } from '../networks/networks.ts'
import { type NetworksOptions, openNetworks } from '../networks/open-networks.ts'
import type { Abortable, Capabilities, Probe, Runtime, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { agentsOf, makeAgentLayer } from './agent-layer.ts'
import { type Cgroups, findCgroups, limitsSwap } from './cgroups.ts'
import { type Criu, findCriu } from './criu.ts'
import { findFreezer } from './freezer.ts'
import { raiseInotifyLimit } from './inotify-limit.ts'
import { type Launcher, openLauncher } from './launcher.ts'
import { makeNetworkLayer, removeNetworkLayers } from './network-layer.ts'
import { attachSandbox, createSandbox, type OciContext, type OciSandbox } from './sandbox.ts'
import { sealStore } from './seals.ts'
import { tryOnce } from './try-once.ts'
import { uidRanges } from './uid-ranges.ts'
import { volumeStore } from './volumes.ts'

export interface OciOptions {
  /** `crun`, `runc`, or a path to either. Default: the first that works, in that order. */
  binary?: string
  /** Where the sparse image of the sandboxes' disks may grow to, when it is made. Default: half of what the file system has free. */
  diskBytes?: number
  networks?: Omit<NetworksOptions, 'directory'>
}

export interface OciDeps {
  /** Directory of this node; the runtime uses `oci/` below it. */
  dataDirectory: string
  /** Default: that of this checkout. */
  agentPath?: string
  /** What the node's log should say: the sandboxes' disk had to be made anew. Default: a warning of the process. */
  onNotice?: (text: string) => void
}

const MIN_DISK_BYTES = 512 * 1024 * 1024
/** btrfs makes and mounts a larger sparse image as fast, but no sandbox needs more. */
const MAX_DISK_BYTES = 4 * 1024 ** 4
const MODPROBE_TIMEOUT_MS = 30_000
const BINARIES = ['crun', 'runc']
const HINT = '`./bramble setup` installs what is missing; `bramble doctor` tries each part'

/** The directory's own name for its cgroups, so that two nodes on a host never touch each other's. */
const nodeNameOf = (directory: string): string => createHash('sha256').update(directory).digest('hex').slice(0, 12)

const diskBytesFor = async (directory: string, asked: number | undefined): Promise<number> => {
  if (asked !== undefined) return asked
  const { bavail, bsize } = await statfs(directory)
  return Math.min(MAX_DISK_BYTES, Math.max(MIN_DISK_BYTES, Math.floor((bavail * bsize) / 2 / 4096) * 4096))
}

const findOnPath = (name: string): string | undefined => {
  if (name.includes('/')) return existsSync(name) ? name : undefined
  return (process.env.PATH ?? '')
    .split(':')
    .concat('/usr/sbin', '/usr/bin')
    .map((directory) => join(directory, name))
    .find((path) => existsSync(path))
}

/** btrfs, and the loop device that its image is attached by. */
const kernelHasBtrfs = async (): Promise<boolean> =>
  existsSync('/dev/loop-control') && /\bbtrfs$/m.test(await readFile('/proc/filesystems', 'utf8').catch(() => ''))

/** Most distributions have both as modules, which are not loaded before the first use; some have none. */
const hasBtrfs = async (): Promise<boolean> => {
  if (findOnPath('mkfs.btrfs') === undefined) return false
  if (await kernelHasBtrfs()) return true
  const modprobe = findOnPath('modprobe')
  if (modprobe === undefined) return false
  await promisify(execFile)(modprobe, ['-a', '-q', 'loop', 'btrfs'], { timeout: MODPROBE_TIMEOUT_MS }).catch(() => {})
  return await kernelHasBtrfs()
}

const reasonOf = (error: unknown): string => (error instanceof BrambleError ? error.detail : String(error))

const openFilesLimit = async (): Promise<number> => {
  const limits = await readFile('/proc/self/limits', 'utf8')
  const hard = Number(/^Max open files\s+\S+\s+(\d+)/m.exec(limits)?.[1] ?? 4096)
  return Math.min(hard, 65_536)
}

interface Host {
  readonly cgroups: Cgroups
  readonly directory: string
  /** The agent's. */
  readonly layer: string
  readonly criu: Criu | undefined
  readonly options: OciOptions
  readonly onNotice: (text: string) => void
}

/** What of networks this OCI binary can join, by trying. The node's log says why there are none. */
const tryNetwork = async (
  create: (config: SandboxConfig) => Promise<OciSandbox>,
  networks: Networks,
  { directory, onNotice }: Host,
): Promise<readonly ('egress' | 'allow')[]> => {
  const reason =
    networks.reason ?? (await tryOnce((config) => create({ ...config, network: { allow: [] } }), directory)).failure
  if (reason === undefined) return networks.offers
  onNotice(`sandboxes have no network: ${reason}`)
  return []
}

/** Rejects when the binary makes no sandboxes here. */
const open = async (binary: string, host: Host): Promise<Runtime> => {
  const { cgroups, criu, directory, layer, options } = host
  const diskBytes = (await hasBtrfs()) ? await diskBytesFor(directory, options.diskBytes) : 0
  const cgroup = `/bramble/${nodeNameOf(directory)}`
  const sandboxes = new Map<SandboxId, OciSandbox>()
  const unattached = new Map<SandboxId, number>()
  const opening = new Map<SandboxId, SandboxEnd | undefined>()
  const uids = uidRanges(Number.parseInt(nodeNameOf(directory).slice(0, 6), 16))
  let launcher: Promise<Launcher> | undefined
  let networks: Networks | undefined
  let seals: ReturnType<typeof sealStore> | undefined
  let closed = false

  const forgetUnattached = (id: SandboxId): void => {
    const uidBase = unattached.get(id)
    unattached.delete(id)
    if (uidBase !== undefined) uids.release(uidBase)
  }
  const onEnded = (id: SandboxId, detail: string, oomKills: number): void => {
    forgetUnattached(id)
    if (opening.has(id)) opening.set(id, { by: 'itself', detail, oomKills })
    sandboxes.get(id)?.onEnded(detail, oomKills)
  }
  const connect = async (): Promise<Launcher> => {
    const opened = await openLauncher(
      {
        directory,
        ociBinary: binary,
        cgroup,
        hierarchies: cgroups.hierarchies.filter((path) => path !== cgroups.unified),
        // crun before 1.9 refuses a cgroup2 mount beside version 1.
        hide: cgroups.unified,
        criu: criu?.command,
        diskBytes,
      },
      {
        onEnded: (id, oomKills) => onEnded(id as SandboxId, 'its first process ended', oomKills),
        onNotice: host.onNotice,
      },
    )
    // What it kept is taken over, or reaped, by whoever asks for that; until then its host ids are in use.
    for (const { id, uidBase } of await opened.kept()) {
      unattached.set(id as SandboxId, uidBase)
      uids.claim(uidBase)
    }
    void opened.closed.then(() => {
      launcher = undefined
      for (const id of [...unattached.keys(), ...opening.keys(), ...sandboxes.keys()])
        onEnded(id, 'the launcher ended', 0)
    })
    return opened
  }
  // A launcher that dies takes the bookkeeping of its sandboxes along; the next one removes them when it starts.
  const getLauncher = (): Promise<Launcher> => {
    if (closed) throw new BrambleError('shutting_down', { detail: 'the runtime is closed' })
    launcher ??= connect().catch((error: unknown) => {
      launcher = undefined
      throw error
    })
    return launcher
  }
  const close = async (): Promise<void> => {
    if (closed) return
    const running = launcher
    for (const sandbox of [...sandboxes.values()]) if (sandbox.config.keep) sandbox.letGo()
    await Promise.all([...sandboxes.values()].map((sandbox) => sandbox.destroy()))
    closed = true
    await (await running?.catch(() => undefined))?.close()
    await networks?.close()
    await seals?.close()
  }
  const reap = async (keep: ReadonlySet<SandboxId> = new Set()): Promise<number> => {
    const opened = await getLauncher()
    const unwanted = [...unattached.keys()].filter((id) => !keep.has(id))
    const left = await opened.reap()
    await Promise.all(unwanted.map((id) => opened.destroy(id).then(() => forgetUnattached(id))))
    // Links of sandboxes that are gone; what they were for is counted.
    await networks?.reap(new Set([...unattached.keys(), ...opening.keys()]))
    return left + unwanted.length
  }

  await using undo = new AsyncDisposableStack()
  undo.defer(close)
  await raiseInotifyLimit()
  const opened = await getLauncher()
  const { keeps } = opened
  if ((await opened.kept()).length === 0) await removeNetworkLayers(directory)
  networks = await openNetworks({ directory, ...options.networks })
  const context: OciContext = {
    name: 'oci',
    directory,
    cgroup,
    cgroups,
    layer,
    sandboxes,
    unattached,
    opening,
    getLauncher,
    uids,
    networks,
    networkLayer: (resolver, hostname) => makeNetworkLayer(directory, resolver, hostname),
    swapAccounting: await limitsSwap(cgroups, cgroup),
    maxOpenFiles: await openFilesLimit(),
    freezer: findFreezer(cgroups),
    criu,
  }
  const create = (config: SandboxConfig, { signal }: Abortable = {}) => createSandbox(context, config, signal)
  // The first start compiles the seccomp profile, those after it use what came of that: both are tried.
  for (const _ of ['compiles', 'reuses']) {
    const { failure, pauses } = await tryOnce(create, directory)
    if (!pauses) context.freezer = undefined
    if (failure !== undefined) throw new BrambleError('sandbox_failed', { detail: failure })
  }
  const offers = await tryNetwork(create, networks, host)
  const has = (controller: 'cpu' | 'memory' | 'pids'): boolean => cgroups.controller(controller) !== undefined
  const capabilities: Capabilities = {
    isolation: 'container',
    limits: { cpu: has('cpu'), memory: has('memory'), pids: has('pids'), disk: true },
    userNamespace: true,
    seccomp: true,
    pause: context.freezer !== undefined,
    seals: keeps,
    checkpoint: keeps && criu !== undefined && context.freezer !== undefined,
    keep: keeps,
    volumes: keeps,
    network: ['none', ...offers],
  }
  const saves = capabilities.checkpoint && criu !== undefined
  const needs = saves ? { ...criu.requirements, agents: await agentsOf(directory) } : undefined
  seals = sealStore(getLauncher, needs)
  undo.move()
  return {
    name: 'oci',
    capabilities,
    prepare: async () => {},
    create,
    attach: (config, { signal } = {}) => attachSandbox(context, config, signal),
    list: async () => (await (await getLauncher()).list()) as SandboxId[],
    reap,
    layers: {
      list: async () => await (await getLauncher()).layers(),
      usedBytes: async (name) => await (await getLauncher()).layerUsed(name),
      remove: async (name) => await (await getLauncher()).removeLayer(name),
    },
    ...(keeps && { volumes: volumeStore(getLauncher), seals }),
    forget: async () => {},
    close,
    [Symbol.asyncDispose]: close,
  }
}

/**
 * Sandboxes as containers: crun or runc, an overlay over the unpacked image, user namespaces, cgroups. Needs root on
 * Linux 5.19 or newer (id-mapped overlay layers).
 */
export const oci =
  (options: OciOptions = {}) =>
  async (deps: OciDeps): Promise<Probe<Runtime>> => {
    if (process.platform !== 'linux')
      return { available: false, reason: 'not on Linux', hint: 'use the docker runtime here' }
    if (process.getuid?.() !== 0)
      return { available: false, reason: 'not root', hint: 'run as root: cgroups, mounts and user namespaces need it' }
    const cgroups = findCgroups()
    if (!cgroups) return { available: false, reason: 'no cgroups are mounted', hint: 'mount cgroup2 on /sys/fs/cgroup' }
    const found = (options.binary ? [options.binary] : BINARIES).map(findOnPath).filter((path) => path !== undefined)
    if (found.length === 0)
      return { available: false, reason: `no ${options.binary ?? BINARIES.join(' and no ')} on PATH`, hint: HINT }
    const reasons: string[] = []
    try {
      const parent = join(deps.dataDirectory, 'oci')
      await mkdir(parent, { recursive: true, mode: 0o700 })
      const directory = await realpath(parent)
      const layer = await makeAgentLayer(directory, deps.agentPath ?? agentBinaryPath())
      const onNotice = deps.onNotice ?? ((text) => process.emitWarning(text))
      const probed = await findCriu()
      const criu = 'command' in probed ? probed : undefined
      for (const binary of found) {
        try {
          return {
            available: true,
            runtime: await open(binary, { cgroups, directory, layer, criu, options, onNotice }),
          }
        } catch (error) {
          reasons.push(`${binary}: ${reasonOf(error)}`)
        }
      }
    } catch (error) {
      reasons.push(reasonOf(error))
    }
    return { available: false, reason: reasons.join('; '), hint: HINT }
  }
