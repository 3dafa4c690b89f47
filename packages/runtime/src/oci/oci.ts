import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, realpath, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import type { Capabilities, Probe, Runtime } from '../runtime.ts'
import { withoutKeep } from '../without.ts'
import { makeAgentLayer } from './agent-layer.ts'
import { type Cgroups, findCgroups, limitsSwap } from './cgroups.ts'
import { type Launcher, openLauncher } from './launcher.ts'
import { createSandbox, type OciContext, type OciSandbox } from './sandbox.ts'
import { tryOnce } from './try-once.ts'

export interface OciOptions {
  /** `crun`, `runc`, or a path to either. Default: the first that works, in that order. */
  binary?: string
  /** Where the sparse image of the sandboxes' disks may grow to. Default: half of what the file system has free. */
  diskBytes?: number
}

export interface OciDeps {
  /** Directory of this node; the runtime uses `oci/` below it. */
  dataDirectory: string
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

const openFilesLimit = async (): Promise<number> => {
  const limits = await readFile('/proc/self/limits', 'utf8')
  const hard = Number(/^Max open files\s+\S+\s+(\d+)/m.exec(limits)?.[1] ?? 4096)
  return Math.min(hard, 65_536)
}

const open = async (
  binary: string,
  cgroups: Cgroups,
  directory: string,
  options: OciOptions,
  layer: string,
): Promise<Runtime> => {
  const diskBytes = (await hasBtrfs()) ? await diskBytesFor(directory, options.diskBytes) : 0
  const cgroup = `/bramble/${nodeNameOf(directory)}`
  const memory = cgroups.controller('memory')
  const sandboxes = new Map<SandboxId, OciSandbox>()
  let launcher: Promise<Launcher> | undefined
  let closed = false
  let launchers = 0

  // A launcher that dies takes the bookkeeping of its sandboxes along; the next one removes them first of all.
  const getLauncher = (): Promise<Launcher> => {
    if (closed) throw new BrambleError('shutting_down', { detail: 'the runtime is closed' })
    launcher ??= openLauncher(
      {
        directory,
        ociBinary: binary,
        cgroup,
        hierarchies: cgroups.hierarchies.filter((path) => path !== cgroups.unified),
        // crun before 1.9 refuses a cgroup2 mount beside version 1.
        hide: cgroups.unified,
        diskBytes,
      },
      { onEnded: (id, oomKills) => sandboxes.get(id as SandboxId)?.onEnded('its first process ended', oomKills) },
    ).then(
      async (opened) => {
        void opened.closed.then(() => {
          launcher = undefined
          for (const sandbox of sandboxes.values()) sandbox.onEnded('the launcher ended', 0)
        })
        if (launchers++ > 0)
          await opened.reap().catch(async (error: unknown) => {
            await opened.close()
            throw error
          })
        return opened
      },
      (error: unknown) => {
        launcher = undefined
        throw error
      },
    )
    return launcher
  }

  await getLauncher()
  const context: OciContext = {
    name: 'oci',
    cgroup,
    cgroups,
    layer,
    sandboxes,
    getLauncher,
    firstUidSlot: Number.parseInt(nodeNameOf(directory).slice(0, 6), 16),
    freeUidSlots: [],
    nextUidSlot: 0,
    swapAccounting: await limitsSwap(cgroups, cgroup),
    maxOpenFiles: await openFilesLimit(),
  }
  const capabilities: Capabilities = {
    isolation: 'container',
    limits: {
      cpu: cgroups.controller('cpu') !== undefined,
      memory: memory !== undefined,
      pids: cgroups.controller('pids') !== undefined,
      disk: true,
    },
    userNamespace: true,
    seccomp: true,
    pause: false,
    checkpoint: false,
    keep: false,
    volumes: false,
    network: ['none'],
  }
  const close = async (): Promise<void> => {
    if (closed) return
    await Promise.all([...sandboxes.values()].map((sandbox) => sandbox.destroy()))
    const running = launcher
    closed = true
    await (await running?.catch(() => undefined))?.close()
  }
  return {
    name: 'oci',
    capabilities,
    prepare: async () => {},
    create: (config, createOptions) => createSandbox(context, config, createOptions?.signal),
    list: async () => (await (await getLauncher()).list()) as SandboxId[],
    reap: async () => await (await getLauncher()).reap(),
    ...withoutKeep,
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
      const layer = await makeAgentLayer(directory, agentBinaryPath())
      for (const binary of found) {
        const runtime = await open(binary, cgroups, directory, options, layer)
        // The first start compiles the seccomp profile, those after it use what came of that: both are tried.
        const failure = (await tryOnce(runtime, directory)) ?? (await tryOnce(runtime, directory))
        if (failure === undefined) return { available: true, runtime }
        reasons.push(`${binary}: ${failure}`)
        await runtime.close()
      }
    } catch (error) {
      reasons.push(error instanceof BrambleError ? error.detail : String(error))
    }
    return { available: false, reason: reasons.join('; '), hint: HINT }
  }
