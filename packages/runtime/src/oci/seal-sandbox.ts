import { readlink, statfs } from 'node:fs/promises'
import { BrambleError, LIMITS } from '@bramble/protocol'
import { SANDBOX_AGENT_PATH } from '../agent/agent-binary.ts'
import type { ConnectedAgent } from '../agent/connect-agent.ts'
import type { SandboxConfig } from '../runtime.ts'
import type { Sealed } from '../seals/seals.ts'
import { agentOfProcess } from './agent-layer.ts'
import type { Criu } from './criu.ts'
import type { Freezer } from './freezer.ts'
import type { Launcher } from './launcher.ts'
import { readStart } from './read-start.ts'
import { explainRefusal } from './refusal.ts'
import { assertSealName, finishSeal, type SealInfoFile } from './seals.ts'

/** A process chooses what its command line is, and how long; the sockets are as many as it likes. */
const COMMAND_BYTES_MAX = 4096
const STATUS_BYTES_MAX = 16 * 1024
const TABLE_BYTES_MAX = 1024 * 1024
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
  { name, memory, signal }: { name: string; memory: boolean; signal?: AbortSignal | undefined },
): Promise<Sealed> => {
  signal?.throwIfAborted()
  assertSealName(name)
  const { launcher, config } = context
  if (!launcher.keeps)
    throw new BrambleError('unsupported', { detail: 'states are kept on btrfs only, which this host has not' })
  if ((await launcher.seals()).includes(name))
    throw new BrambleError('conflict', { detail: `there is a seal ${name} already` })
  await assertRoom(context.directory)
  let made = false
  const make = async (): Promise<void> => {
    const mounts = (config.mounts ?? []).map(({ path }) => path)
    await launcher.seal(config.id, name, memory, mounts)
    made = true
  }
  try {
    // A snapshot of btrfs has all of one moment: nothing has to stand still for it.
    if (!memory) await make()
    const saved = memory ? await whileFrozen(context, make) : undefined
    await finishSeal(launcher, name, saved ? { memory: saved.info } : {})
    return { name, memory, frozenMs: saved?.frozenMs ?? 0 }
  } catch (error) {
    if (made) await launcher.removeSeal(name).catch(() => {})
    throw error
  }
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

type Memory = NonNullable<SealInfoFile['memory']>

/** `make`, while no process of the sandbox runs, and no connection leads out of it. */
const whileFrozen = async (
  context: SealContext,
  make: () => Promise<void>,
): Promise<{ info: Memory; frozenMs: number }> => {
  const { agent, freezer, criu, cgroupPath, paused } = context
  if (freezer === undefined || criu === undefined)
    throw new BrambleError('unsupported', {
      detail: 'this host cannot save the memory of sandboxes (`bramble doctor`)',
    })
  // An agent that is frozen can let go of nothing.
  const agentName = await agentAmong(context.processes)
  if (paused) await freezer.thaw(cgroupPath)
  let info: Memory
  let frozenMs: number
  await agent.park()
  try {
    await freezer.freeze(cgroupPath)
    const frozenAtMs = performance.now()
    try {
      const [state] = await Promise.all([
        stateOf(context.processes),
        make().catch(async (error: unknown) => {
          throw await explainRefusal(error)
        }),
      ])
      info = { requires: { ...criu.requirements, ...(agentName !== undefined && { agent: agentName }) }, ...state }
    } finally {
      await freezer.thaw(cgroupPath)
      frozenMs = performance.now() - frozenAtMs
    }
  } finally {
    await goOn(context)
    if (paused) await freezer.freeze(cgroupPath)
  }
  return { info, frozenMs }
}

/** Where the agent cannot be reached any more, whoever waits for it hears so. */
const goOn = async ({ agent, connect }: SealContext): Promise<void> => {
  try {
    await agent.resume(await connect())
  } catch (error) {
    await agent.close()
    throw error
  }
}

/** Its own program, as its own helpers have it, too. */
const agentAmong = async (processes: string): Promise<string | undefined> => {
  for (const pid of (await readStart(processes, TABLE_BYTES_MAX)).split('\n').filter(Boolean))
    if ((await readlink(`/proc/${pid}/exe`).catch(() => '')) === SANDBOX_AGENT_PATH) return await agentOfProcess(pid)
  return undefined
}

/** What runs and listens there, as the sandbox knows it: for people. */
const stateOf = async (processes: string): Promise<Omit<Memory, 'requires'>> => {
  const pids = (await readStart(processes, TABLE_BYTES_MAX)).split('\n').filter(Boolean)
  const [first = ''] = pids
  const [known, ...tables] = await Promise.all([
    Promise.all(
      pids.map(async (pid) => {
        const [status, line] = await Promise.all([
          readStart(`/proc/${pid}/status`, STATUS_BYTES_MAX),
          readStart(`/proc/${pid}/cmdline`, COMMAND_BYTES_MAX),
        ])
        const own = /^NSpid:.*\t(\d+)$/m.exec(status)?.[1]
        const command = line.replaceAll('\0', ' ').trim() || (/^Name:\t(.*)$/m.exec(status)?.[1] ?? '')
        return { pid: Number(own), command }
      }),
    ),
    readStart(`/proc/${first}/net/tcp`, TABLE_BYTES_MAX),
    readStart(`/proc/${first}/net/tcp6`, TABLE_BYTES_MAX),
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
