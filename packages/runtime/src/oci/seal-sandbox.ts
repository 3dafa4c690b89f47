import { readFile, statfs } from 'node:fs/promises'
import { BrambleError, LIMITS } from '@bramble/protocol'
import type { ConnectedAgent } from '../agent/connect-agent.ts'
import type { SandboxConfig } from '../runtime.ts'
import type { Sealed } from '../seals/seals.ts'
import type { Criu } from './criu.ts'
import { requirementsOf } from './criu.ts'
import type { Freezer } from './freezer.ts'
import type { Launcher } from './launcher.ts'
import { explainRefusal } from './refusal.ts'
import { assertSealName, finishSeal, type SealInfoFile } from './seals.ts'

const MAX_COMMAND_CHARS = 4096
const LISTENING = '0A'

export interface SealContext {
  readonly launcher: Launcher
  readonly directory: string
  readonly config: SandboxConfig
  readonly agent: ConnectedAgent
  readonly freezer: Freezer | undefined
  readonly criu: Criu | undefined
  readonly cgroupPath: string
  /** The directory of its processes' ids. */
  readonly processes: string
  readonly paused: boolean
  /** Opens a stream to the agent anew. */
  connect(): Promise<Parameters<ConnectedAgent['resume']>[0]>
}

/** Makes a seal of a sandbox that runs, or is paused. What fails leaves nothing, and the sandbox as it was. */
export const sealSandbox = async (
  context: SealContext,
  { name, memory }: { name: string; memory: boolean },
): Promise<Sealed> => {
  assertSealName(name)
  const { launcher, config } = context
  if (!launcher.keeps)
    throw new BrambleError('unsupported', { detail: 'states are kept on btrfs only, which this host has not' })
  if ((await launcher.seals()).includes(name))
    throw new BrambleError('conflict', { detail: `there is a seal ${name} already` })
  await assertRoom(context.directory)
  if (memory) return await sealMemory(context, name)
  // A snapshot of btrfs has all of one moment: nothing has to stand still for it.
  await launcher.seal(config.id, name, false, [])
  await finish(launcher, name, {})
  return { name, memory: false, frozenMs: 0 }
}

/**
 * The image of the disk is sparse. When its file system is full, what the kernel writes back later is lost, and neither the
 * sandbox nor a state of it would tell.
 */
const assertRoom = async (directory: string): Promise<void> => {
  const { bavail, bsize } = await statfs(directory)
  const minBytes = LIMITS.minSealRoomBytes.value
  if (bavail * bsize >= minBytes) return
  const mib = (bytes: number): number => Math.floor(bytes / (1024 * 1024))
  throw new BrambleError('store_full', {
    detail: `the disk of this host has ${mib(bavail * bsize)} MiB left, and a state needs ${mib(minBytes)}`,
  })
}

const finish = async (launcher: Launcher, name: string, info: SealInfoFile): Promise<void> => {
  try {
    await finishSeal(launcher, name, info)
  } catch (error) {
    await launcher.removeSeal(name).catch(() => {})
    throw error
  }
}

const sealMemory = async (context: SealContext, name: string): Promise<Sealed> => {
  const { launcher, config, agent, freezer, criu, cgroupPath, paused } = context
  if (freezer === undefined || criu === undefined)
    throw new BrambleError('unsupported', {
      detail: 'this host cannot save the memory of sandboxes (`bramble doctor`)',
    })
  // An agent that is frozen can let go of nothing.
  if (paused) await freezer.thaw(cgroupPath)
  let info: SealInfoFile
  let frozenMs: number
  await agent.park()
  try {
    await freezer.freeze(cgroupPath)
    const frozenAtMs = performance.now()
    try {
      const mounts = (config.mounts ?? []).map(({ path }) => path)
      const [requires, state] = await Promise.all([
        requirementsOf(criu),
        stateOf(context.processes),
        launcher.seal(config.id, name, true, mounts).catch(async (error: unknown) => {
          throw await explainRefusal(error)
        }),
      ])
      info = { memory: { requires, ...state } }
    } finally {
      await freezer.thaw(cgroupPath)
      frozenMs = performance.now() - frozenAtMs
    }
  } finally {
    await agent.resume(await context.connect())
    if (paused) await freezer.freeze(cgroupPath)
  }
  await finish(launcher, name, info)
  return { name, memory: true, frozenMs }
}

const readText = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')

/** What runs and listens there, as the sandbox knows it: for people. */
const stateOf = async (processes: string): Promise<Omit<NonNullable<SealInfoFile['memory']>, 'requires'>> => {
  const pids = (await readText(processes)).split('\n').filter(Boolean)
  const [first = ''] = pids
  const [known, ...tables] = await Promise.all([
    Promise.all(
      pids.map(async (pid) => {
        const [status, line] = await Promise.all([readText(`/proc/${pid}/status`), readText(`/proc/${pid}/cmdline`)])
        const own = /^NSpid:.*\t(\d+)$/m.exec(status)?.[1]
        const command = line.replaceAll('\0', ' ').trim() || (/^Name:\t(.*)$/m.exec(status)?.[1] ?? '')
        return { pid: Number(own), command: command.slice(0, MAX_COMMAND_CHARS) }
      }),
    ),
    readText(`/proc/${first}/net/tcp`),
    readText(`/proc/${first}/net/tcp6`),
  ])
  const ports = tables.flatMap((table) =>
    table.split('\n').flatMap((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/)
      return state === LISTENING ? [Number.parseInt(local.slice(local.lastIndexOf(':') + 1), 16)] : []
    }),
  )
  return {
    // The first is the agent.
    processes: known.filter(({ pid }) => pid > 1).sort((a, b) => a.pid - b.pid),
    ports: [...new Set(ports)].sort((a, b) => a - b),
  }
}
