import { setTimeout as sleep } from 'node:timers/promises'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { ExecRequest } from '../agent/agent.ts'
import { layerInUse } from '../layer-in-use.ts'
import type { Capabilities, Layers, Probe, Runtime, Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { withoutPause } from '../without.ts'
import { type FakeAgent, fakeAgent, unconnected } from './agent.ts'
import type { FakeFileSystem } from './file-system.ts'
import { withFreshDevices } from './layer.ts'
import { makeFakeLog } from './log.ts'
import { imageFiles, makeMachine, nowNsOf } from './machine.ts'
import type { FakeClock, Machine } from './process.ts'
import { checkNewSeal, type FakeSeal, sealNamed, sealStoreOf } from './seals.ts'

export type { FakeClock } from './process.ts'

export interface FakeOptions {
  /** What the fake claims instead of its own capabilities, for tests of callers that branch on them. */
  readonly capabilities?: Partial<Capabilities>
  /** How long `create` takes, by the clock. Default 0: at once. */
  readonly createMs?: number
  /** How long a command takes to start, by the clock. Default 0. */
  readonly startMs?: number
  /** Asked at each `create`: an error makes it fail with it. */
  readonly createFails?: (config: SandboxConfig) => Error | undefined
  /** Asked before each command: true ends the sandbox by itself, as the death of its agent would. */
  readonly dies?: (request: ExecRequest, config: SandboxConfig) => boolean
}

/** What stands for the host's kernel and disk: runtimes that share one see each other's sandboxes, and their layers. */
export interface FakeHost {
  readonly sandboxes: Map<SandboxId, FakeBox>
  readonly layers: Map<string, FakeFileSystem>
  readonly seals: Map<string, FakeSeal>
}

/** A sandbox as its host knows it. */
interface FakeBox {
  readonly config: SandboxConfig
  end(how: SandboxEnd): void
  /** Connects to its agent; whoever was connected before is cut off. */
  open(context: Context): Sandbox
}

export interface FakeDeps {
  readonly host?: FakeHost
  readonly clock?: FakeClock
}

export const makeFakeHost = (): FakeHost => ({ sandboxes: new Map(), layers: new Map(), seals: new Map() })

const CAPABILITIES: Capabilities = {
  isolation: 'none',
  limits: { cpu: false, memory: false, pids: false, disk: true },
  userNamespace: false,
  seccomp: false,
  pause: false,
  seals: true,
  checkpoint: false,
  keep: true,
  volumes: false,
  network: ['none'],
}
const DEFAULT_HOSTNAME = 'sandbox'
const REAL_CLOCK: FakeClock = {
  sleep: (ms, options) => sleep(ms, undefined, options),
  nowNs: () => BigInt(Date.now()) * 1_000_000n,
}

interface Context {
  readonly options: FakeOptions
  readonly capabilities: Capabilities
  readonly host: FakeHost
  readonly clock: FakeClock
  readonly own: Map<SandboxId, Sandbox>
}

/**
 * A runtime in memory, for fast tests of what stands above: its sandboxes run a small set of commands and a small shell,
 * in the same files for every image. `fake-oom` and `fake-die` do what a kernel does to real ones.
 */
export const fake =
  (options: FakeOptions = {}) =>
  async (deps: FakeDeps = {}): Promise<Probe<Runtime>> => {
    const capabilities = { ...CAPABILITIES, ...options.capabilities }
    const context: Context = {
      options,
      capabilities,
      host: deps.host ?? makeFakeHost(),
      clock: deps.clock ?? REAL_CLOCK,
      own: new Map(),
    }
    const close = async () => {
      for (const sandbox of [...context.own.values()]) {
        if (!sandbox.config.keep) await sandbox.destroy()
        else {
          context.own.delete(sandbox.id)
          await sandbox.agent.close()
        }
      }
    }
    const runtime: Runtime = {
      name: 'fake',
      capabilities,
      prepare: async (_image, { signal } = {}) => signal?.throwIfAborted(),
      create: (config, { signal } = {}) => create(context, config, signal),
      list: async () => [...context.host.sandboxes.keys()],
      reap: async (keep) => reap(context, keep),
      attach: async (config, { signal } = {}) => {
        signal?.throwIfAborted()
        return attach(context, config)
      },
      layers: layersOf(context.host),
      ...(capabilities.seals && { seals: sealStoreOf(context.host.seals, context.clock) }),
      forget: async () => undefined,
      close,
      [Symbol.asyncDispose]: close,
    }
    return { available: true, runtime }
  }

const reap = ({ host, own }: Context, keep: ReadonlySet<SandboxId> = new Set()): number => {
  const left = [...host.sandboxes].filter(([id, { config }]) => !own.has(id) && !(config.keep && keep.has(id)))
  for (const [, box] of left) box.end({ by: 'destroy' })
  return left.length
}

const attach = (context: Context, { id }: SandboxConfig): Sandbox => {
  const box = context.host.sandboxes.get(id)
  if (!box?.config.keep) throw new BrambleError('not_found', { detail: `no kept sandbox ${id} runs here` })
  if (context.own.has(id)) throw new BrambleError('conflict', { detail: `the sandbox ${id} is attached to already` })
  return box.open(context)
}

const runsOn = (host: FakeHost, layer: string): boolean =>
  [...host.sandboxes.values()].some(({ config }) => config.keep?.layer === layer)

const layersOf = (host: FakeHost): Layers => ({
  list: async () => [...host.layers.keys()],
  usedBytes: async (layer) => host.layers.get(layer)?.usedBytes ?? 0,
  remove: async (layer) => {
    if (runsOn(host, layer)) throw layerInUse(layer)
    host.layers.delete(layer)
  },
})

const create = async (context: Context, config: SandboxConfig, signal?: AbortSignal): Promise<Sandbox> => {
  const { options, host, clock } = context
  signal?.throwIfAborted()
  const failure = options.createFails?.(config)
  if (options.createMs) {
    const never = new AbortController().signal
    await clock.sleep(options.createMs, { signal: signal ?? never }).catch((error) => {
      signal?.throwIfAborted()
      throw error
    })
  }
  if (failure) throw failure
  if (host.sandboxes.has(config.id))
    throw new BrambleError('sandbox_failed', { detail: `there is a sandbox ${config.id} already` })

  const { keep } = config
  if (keep && runsOn(host, keep.layer)) throw layerInUse(keep.layer)
  if (keep && config.from && host.layers.has(keep.layer))
    throw new BrambleError('conflict', { detail: `there is a layer ${keep.layer} already` })
  const box = makeBox(context, config)
  host.sandboxes.set(config.id, box)
  return box.open(context)
}

const filesFrom = ({ seals }: FakeHost, clock: FakeClock, { from, image }: SandboxConfig): FakeFileSystem => {
  const seal = sealNamed(seals, from?.seal ?? '')
  if (seal.imageDigest !== undefined && seal.imageDigest !== image.digest)
    throw new BrambleError('snapshot_incompatible', {
      detail: `the seal ${from?.seal} is of the image ${seal.imageDigest}, not ${image.digest}`,
    })
  if (from?.memory) throw new BrambleError('snapshot_incompatible', { detail: `the seal ${from.seal} has no memory` })
  return withFreshDevices(seal.files.copy(), imageFiles(0, nowNsOf(clock)))
}

/** The machine of a sandbox, and what outlives a connection to it. */
const makeBox = ({ options, host, clock, capabilities }: Context, config: SandboxConfig): FakeBox => {
  const { id, keep } = config
  const before = async (request: ExecRequest) => {
    if (options.startMs) await clock.sleep(options.startMs, { signal: new AbortController().signal })
    if (options.dies?.(request, config)) machine.die('the agent died')
  }
  const commands = unconnected(() => machine, before)
  const log = makeFakeLog(commands.exec)
  const machine: Machine = makeMachine({
    hostname: config.hostname ?? DEFAULT_HOSTNAME,
    maxDiskBytes: config.resources.diskMb * 1024 * 1024,
    files: config.from ? filesFrom(host, clock, config) : keep && host.layers.get(keep.layer),
    clock,
    die: (detail) => end({ by: 'itself', detail, oomKills: machine.oomKills }),
    emit: log.emit,
  })
  if (keep) host.layers.set(keep.layer, machine.files)
  let connected: { agent: FakeAgent; ended(how: SandboxEnd): void; forget(): void } | undefined
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
  const open = ({ own }: Context): Sandbox => {
    connected?.agent.end(undefined)
    const ended = Promise.withResolvers<SandboxEnd>()
    const agent = fakeAgent(machine, before, log.connect(), keep !== undefined)
    const current = { agent, ended: ended.resolve, forget: () => void own.delete(id) }
    connected = current
    // One that lost its connection may be attached to again.
    void agent.closed.then(() => {
      if (keep && own.get(id) === sandbox) own.delete(id)
    })
    const destroy = async () => {
      // Whoever let go of it, or lost it to another, ends nothing.
      if (connected === current && (!keep || own.get(id) === sandbox)) end({ by: 'destroy' })
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
          if (!host.sandboxes.has(id)) throw new BrambleError('sandbox_died', { detail: `sandbox ${id} is gone` })
          if (memory) throw new BrambleError('unsupported', { detail: 'this runtime does not save memory' })
          checkNewSeal(host.seals, name)
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
