import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { ExecRequest } from '../agent/agent.ts'
import type { Capabilities, Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import type { Sealed } from '../seals/seals.ts'
import { withoutPause } from '../without.ts'
import { type FakeAgent, fakeAgent, unconnected } from './agent.ts'
import type { FakeHost, FakeOptions } from './fake.ts'
import type { FakeFileSystem } from './file-system.ts'
import { withFreshDevices } from './layer.ts'
import { type LogState, makeFakeLog } from './log.ts'
import { imageFiles, makeMachine } from './machine.ts'
import { copyMemory, freeze, sealMemory, startProcesses } from './memory.ts'
import { type FakeClock, type Machine, nowNsOf } from './process.ts'
import { checkNewSeal, keepMemory, sealNamed } from './seals.ts'

const DEFAULT_HOSTNAME = 'sandbox'

export interface FakeContext {
  readonly options: FakeOptions
  readonly capabilities: Capabilities
  readonly host: FakeHost
  readonly clock: FakeClock
  readonly own: Map<SandboxId, Sandbox>
}

/** A sandbox as its host knows it. */
export interface FakeBox {
  readonly config: SandboxConfig
  end(how: SandboxEnd): void
  /** Connects to its agent; whoever was connected before is cut off. */
  open(context: FakeContext): Sandbox
}

interface Connection {
  readonly agent: FakeAgent
  ended(how: SandboxEnd): void
  forget(): void
}

/** The machine of a sandbox, and what outlives a connection to it. */
export const makeFakeBox = (context: FakeContext, config: SandboxConfig): FakeBox => {
  const { options, host, clock, capabilities } = context
  const { id, keep } = config
  const before = async (request: ExecRequest) => {
    if (options.startMs) await clock.sleep(options.startMs, { signal: new AbortController().signal })
    if (options.dies?.(request, config)) machine.die('the agent died')
  }
  const boot = (files: FakeFileSystem | undefined): Machine =>
    makeMachine({
      hostname: config.hostname ?? DEFAULT_HOSTNAME,
      maxDiskBytes: config.resources.diskMb * 1024 * 1024,
      files,
      clock,
      die: (detail) => end({ by: 'itself', detail, oomKills: machine.oomKills }),
      emit: (data) => log.emit(data),
    })
  const { machine, state } = begin(context, config, boot)
  const commands = unconnected(() => machine, before)
  const log = makeFakeLog(commands.run, state)
  startProcesses(machine)
  if (keep) host.layers.set(keep.layer, machine.files)
  let connected: Connection | undefined
  let peakDiskBytes = 0

  const end = (how: SandboxEnd) => {
    if (!host.sandboxes.delete(id)) return
    const detail = how.by === 'destroy' ? 'it was destroyed' : how.detail
    const error = new BrambleError('sandbox_died', { detail: `sandbox ${id}: ${detail}` })
    connected?.agent.end(error)
    log.end(error)
    commands.fail(error)
    for (const process of machine.processes.values()) process.kill(9)
    connected?.forget()
    connected?.ended(how)
  }
  const seal = async (name: string, connection: Connection): Promise<Sealed> => {
    const begunNs = nowNsOf(clock)
    const { thaw } = await freeze(machine, connection.agent.groups)
    try {
      alive()
      checkNewSeal(host.seals, name)
      const memory = sealMemory({ machine, log: log.state }, connection.agent.groups())
      const { files } = memory.machine
      host.seals.set(name, { imageDigest: config.image.digest, files, memory: keepMemory(host.memories, memory) })
      return { name, memory: true, frozenMs: Number(nowNsOf(clock) - begunNs) / 1e6 }
    } finally {
      thaw()
    }
  }
  const alive = () => {
    if (!host.sandboxes.has(id)) throw new BrambleError('sandbox_died', { detail: `sandbox ${id} is gone` })
  }
  const open = ({ own }: FakeContext): Sandbox => {
    connected?.agent.end(undefined)
    const ended = Promise.withResolvers<SandboxEnd>()
    const agent = fakeAgent(machine, before, log.connect(), keep !== undefined)
    const connection: Connection = {
      agent,
      ended: ended.resolve,
      forget: () => {
        if (own.get(id) === sandbox) own.delete(id)
      },
    }
    connected = connection
    // One that lost its connection may be attached to again.
    void agent.closed.then(() => {
      if (keep) connection.forget()
    })
    const destroy = async () => {
      // Whoever let go of it, or lost it to another, ends nothing.
      if (connected === connection && (!keep || own.get(id) === sandbox)) end({ by: 'destroy' })
    }
    const sandbox: Sandbox = {
      id,
      runtime: 'fake',
      config,
      agent,
      ended: ended.promise,
      ...withoutPause,
      stats: async () => {
        const { usedBytes } = machine.files
        peakDiskBytes = Math.max(peakDiskBytes, usedBytes)
        return {
          cpuMs: 0,
          // Its files are all the memory it has.
          memoryBytes: usedBytes,
          peakMemoryBytes: peakDiskBytes,
          oomKills: machine.oomKills,
          diskBytes: usedBytes,
          egressBytes: 0,
          ingressBytes: 0,
          // The agent is one.
          processes: machine.processes.size + 1,
        }
      },
      ...(capabilities.seals && {
        seal: async ({ name, memory, signal }) => {
          signal?.throwIfAborted()
          alive()
          checkNewSeal(host.seals, name)
          if (memory && !capabilities.checkpoint)
            throw new BrambleError('unsupported', { detail: 'this runtime does not save memory' })
          if (memory) return await seal(name, connection)
          host.seals.set(name, { imageDigest: config.image.digest, files: machine.files.copy() })
          return { name, memory, frozenMs: 0 }
        },
      }),
      destroy,
      [Symbol.asyncDispose]: destroy,
    }
    own.set(id, sandbox)
    return sandbox
  }
  return { config, end, open }
}

/** A machine as its configuration says: of the image, of its layer, or of a seal, whose processes do not run yet. */
const begin = (
  { host, clock, capabilities }: FakeContext,
  { from, image, keep }: SandboxConfig,
  boot: (files: FakeFileSystem | undefined) => Machine,
): { machine: Machine; state?: LogState } => {
  if (!from) return { machine: boot(keep && host.layers.get(keep.layer)) }
  if (!capabilities.seals) throw new BrambleError('unsupported', { detail: 'this runtime keeps no states' })
  const seal = sealNamed(host.seals, from.seal)
  if (seal.imageDigest !== undefined && seal.imageDigest !== image.digest)
    throw new BrambleError('snapshot_incompatible', {
      detail: `the seal ${from.seal} is of the image ${seal.imageDigest}, not ${image.digest}`,
    })
  if (!from.memory)
    return { machine: boot(withFreshDevices(seal.files.copy(), imageFiles(Number.MAX_SAFE_INTEGER, clock))) }
  const memory = seal.memory === undefined ? undefined : host.memories.get(seal.memory)
  if (!memory) throw new BrambleError('snapshot_incompatible', { detail: `the seal ${from.seal} has no memory` })
  const copy = copyMemory(memory, boot)
  return { machine: copy.machine, state: copy.log }
}
