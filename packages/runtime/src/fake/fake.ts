import { setTimeout as sleep } from 'node:timers/promises'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { ExecRequest } from '../agent/agent.ts'
import { layerInUse } from '../layer-in-use.ts'
import type { Capabilities, Layers, Probe, Runtime, Sandbox, SandboxConfig } from '../runtime.ts'
import type { SealStore } from '../seals/seals.ts'
import { type FakeBox, type FakeContext, makeFakeBox } from './box.ts'
import type { FakeFileSystem } from './file-system.ts'
import type { FakeClock } from './process.ts'
import { type FakeMemories, type FakeSeal, sealStoreOf } from './seals.ts'

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
  readonly memories: FakeMemories
}

export interface FakeDeps {
  readonly host?: FakeHost
  readonly clock?: FakeClock
}

/** With `like`: of the same kind, so that a seal with memory that was read there can be written here. */
export const makeFakeHost = (like?: FakeHost): FakeHost => ({
  sandboxes: new Map(),
  layers: new Map(),
  seals: new Map(),
  memories: like?.memories ?? new Map(),
})

const CAPABILITIES: Capabilities = {
  isolation: 'none',
  limits: { cpu: false, memory: false, pids: false, disk: true },
  userNamespace: false,
  seccomp: false,
  pause: false,
  seals: true,
  checkpoint: true,
  keep: true,
  volumes: false,
  network: ['none'],
}
const REAL_CLOCK: FakeClock = {
  sleep: (ms, options) => sleep(ms, undefined, options),
  nowNs: () => BigInt(Date.now()) * 1_000_000n,
}

/**
 * A runtime in memory, for fast tests of what stands above: its sandboxes run a small set of commands and a small shell,
 * in the same files for every image. `fake-oom` and `fake-die` do what a kernel does to real ones.
 */
export const fake =
  (options: FakeOptions = {}) =>
  async (deps: FakeDeps = {}): Promise<Probe<Runtime>> => {
    const capabilities = { ...CAPABILITIES, ...options.capabilities }
    const context: FakeContext = {
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
      ...(capabilities.seals && { seals: sealsOf(context) }),
      forget: async () => undefined,
      close,
      [Symbol.asyncDispose]: close,
    }
    return { available: true, runtime }
  }

const reap = ({ host, own }: FakeContext, keep: ReadonlySet<SandboxId> = new Set()): number => {
  const left = [...host.sandboxes].filter(([id, { config }]) => !own.has(id) && !(config.keep && keep.has(id)))
  for (const [, box] of left) box.end({ by: 'destroy' })
  return left.length
}

const attach = (context: FakeContext, { id }: SandboxConfig): Sandbox => {
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

const sealsOf = ({ host, clock, capabilities }: FakeContext): SealStore =>
  sealStoreOf(host.seals, host.memories, clock, capabilities.checkpoint)

const create = async (context: FakeContext, config: SandboxConfig, signal?: AbortSignal): Promise<Sandbox> => {
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
  const box = makeFakeBox(context, config)
  host.sandboxes.set(config.id, box)
  return box.open(context)
}
