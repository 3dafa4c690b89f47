import { readFile } from 'node:fs/promises'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { Agent } from '../agent/agent.ts'
import { connectAgent } from '../agent/connect-agent.ts'
import type { Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { withoutPause } from '../without.ts'
import { type Cgroups, readStats } from './cgroups.ts'
import { IDS_PER_SANDBOX, ociConfig } from './config.ts'
import { connectUnixSafely } from './connect.ts'
import { LAUNCHER_OCI_STATE, LAUNCHER_RUN, type Launcher } from './launcher.ts'

/** First host id of the ranges: above what distributions give to people and to subordinate ids (login.defs(5)). */
const FIRST_UID = 0x2000_0000
const MAX_UID_SLOTS = 16_384
const MIB = 1024 * 1024
/** `struct sock_filter` of linux/filter.h. */
const BPF_INSTRUCTION_BYTES = 8

export interface OciContext {
  readonly name: string
  readonly cgroup: string
  readonly cgroups: Cgroups
  readonly layer: string
  readonly sandboxes: Map<SandboxId, OciSandbox>
  readonly getLauncher: () => Promise<Launcher>
  /** Where this node begins to count, so that the nodes of one host seldom share host ids either. */
  readonly firstUidSlot: number
  readonly freeUidSlots: number[]
  nextUidSlot: number
  readonly swapAccounting: boolean
  readonly maxOpenFiles: number
  /** See `ConfigContext`; undefined before the first sandbox was made. */
  seccompBpf?: string
}

export interface OciSandbox extends Sandbox {
  /** Of its cgroups, below each hierarchy. */
  readonly cgroupPath: string
  /** The launcher says that the sandbox is gone, and has released what it held. */
  onEnded(detail: string, oomKills: number): void
}

/** No two sandboxes of a node alive at once share host ids, so limits that the kernel keeps by user stay apart. */
const takeUidSlot = (context: OciContext): number => {
  const slot = context.freeUidSlots.pop() ?? context.nextUidSlot++
  if (slot >= MAX_UID_SLOTS)
    throw new BrambleError('sandbox_failed', { detail: `more than ${MAX_UID_SLOTS} sandboxes` })
  return slot
}

const openAgent = async (launcher: Launcher, id: SandboxId): Promise<Agent> => {
  // Mounted in the launcher's namespace only.
  const socket = await connectUnixSafely(`/proc/${launcher.pid}/root${LAUNCHER_RUN}/${id}/run/agent.sock`)
  return await connectAgent(socket)
}

/** What crun made of the profile for a sandbox: a program for seccomp(2), which it keeps in its state. */
const readCompiledSeccomp = async (launcher: Launcher, id: SandboxId): Promise<string> => {
  const path = `/proc/${launcher.pid}/root${LAUNCHER_OCI_STATE}/${id}/seccomp.bpf`
  const program = await readFile(path).catch(() => Buffer.alloc(0))
  return program.length % BPF_INSTRUCTION_BYTES === 0 ? program.toString('base64') : ''
}

/** Makes a sandbox and connects to its agent. Whatever fails, nothing is left. */
export const createSandbox = async (
  context: OciContext,
  config: SandboxConfig,
  signal?: AbortSignal,
): Promise<OciSandbox> => {
  signal?.throwIfAborted()
  const { id } = config
  const launcher = await context.getLauncher()
  const slot = takeUidSlot(context)
  const uidBase = FIRST_UID + ((context.firstUidSlot + slot) % MAX_UID_SLOTS) * IDS_PER_SANDBOX
  const cgroupPath = `${context.cgroup}/${id}`
  // The launcher gives up what it has begun, and then says so to whoever waits for the creation.
  let ending: Promise<void> | undefined
  const abort = (): void => {
    ending ??= launcher.destroy(id).catch(() => {})
  }
  signal?.addEventListener('abort', abort, { once: true })
  let created = false
  try {
    await launcher.create({
      id,
      uidBase,
      diskBytes: config.resources.diskMb * MIB,
      lowers: [context.layer, config.image.rootfs],
      config: ociConfig(config, {
        rootfs: `${LAUNCHER_RUN}/${id}/rootfs`,
        run: `${LAUNCHER_RUN}/${id}/run`,
        cgroupPath,
        uidBase,
        swapAccounting: context.swapAccounting,
        maxOpenFiles: context.maxOpenFiles,
        seccompBpf: context.seccompBpf ?? '',
      }),
    })
    created = true
    context.seccompBpf ??= await readCompiledSeccomp(launcher, id)
    signal?.throwIfAborted()
    const agent = await openAgent(launcher, id)
    signal?.throwIfAborted()
    return track(context, launcher, config, agent, slot, cgroupPath)
  } catch (error) {
    if (created) abort()
    await ending
    context.freeUidSlots.push(slot)
    signal?.throwIfAborted()
    throw error
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

const track = (
  context: OciContext,
  launcher: Launcher,
  config: SandboxConfig,
  agent: Agent,
  slot: number,
  cgroupPath: string,
): OciSandbox => {
  const { id } = config
  const ended = Promise.withResolvers<SandboxEnd>()
  let over = false
  let destroying: Promise<void> | undefined
  const finish = (end: SandboxEnd): void => {
    if (over) return
    over = true
    context.sandboxes.delete(id)
    context.freeUidSlots.push(slot)
    ended.resolve(end)
    void agent.close()
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
  const sandbox: OciSandbox = {
    id,
    runtime: context.name,
    config,
    agent,
    cgroupPath,
    ended: ended.promise,
    ...withoutPause,
    stats: async () => {
      const [stats, diskBytes] = await Promise.all([
        readStats(context.cgroups, cgroupPath),
        over ? 0 : launcher.diskUsed(id).catch(() => 0),
      ])
      return { ...stats, diskBytes }
    },
    destroy,
    onEnded: (detail, oomKills) => finish({ by: 'itself', detail, oomKills }),
    [Symbol.asyncDispose]: destroy,
  }
  context.sandboxes.set(id, sandbox)
  return sandbox
}
