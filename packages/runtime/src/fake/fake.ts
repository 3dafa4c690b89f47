import { setTimeout as sleep } from 'node:timers/promises'
import { BrambleError, type SandboxId } from '@bramble/protocol'
import type { ExecRequest } from '../agent/agent.ts'
import type { Capabilities, Probe, Runtime, Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { withoutKeep, withoutPause } from '../without.ts'
import { fakeAgent } from './agent.ts'
import { makeMachine } from './machine.ts'
import type { FakeClock } from './process.ts'

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

/** What stands for the host's kernel and disk: runtimes that share one see each other's sandboxes. */
export interface FakeHost {
  readonly sandboxes: Map<SandboxId, () => void>
}

export interface FakeDeps {
  readonly host?: FakeHost
  readonly clock?: FakeClock
}

export const makeFakeHost = (): FakeHost => ({ sandboxes: new Map() })

const CAPABILITIES: Capabilities = {
  isolation: 'none',
  limits: { cpu: false, memory: false, pids: false, disk: true },
  userNamespace: false,
  seccomp: false,
  pause: false,
  checkpoint: false,
  keep: false,
  volumes: false,
  network: ['none'],
}
const DEFAULT_HOSTNAME = 'sandbox'
const REAL_CLOCK: FakeClock = { sleep: (ms, options) => sleep(ms, undefined, options) }

interface Context {
  readonly options: FakeOptions
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
    const context: Context = {
      options,
      host: deps.host ?? makeFakeHost(),
      clock: deps.clock ?? REAL_CLOCK,
      own: new Map(),
    }
    const close = async () => {
      await Promise.all([...context.own.values()].map((sandbox) => sandbox.destroy()))
    }
    const runtime: Runtime = {
      name: 'fake',
      capabilities: { ...CAPABILITIES, ...options.capabilities },
      prepare: async (_image, { signal } = {}) => signal?.throwIfAborted(),
      create: (config, { signal } = {}) => create(context, config, signal),
      list: async () => [...context.host.sandboxes.keys()],
      reap: async () => reap(context),
      ...withoutKeep,
      forget: async () => undefined,
      close,
      [Symbol.asyncDispose]: close,
    }
    return { available: true, runtime }
  }

const reap = ({ host, own }: Context): number => {
  const left = [...host.sandboxes].filter(([id]) => !own.has(id))
  for (const [, end] of left) end()
  return left.length
}

const create = async (context: Context, config: SandboxConfig, signal?: AbortSignal): Promise<Sandbox> => {
  const { options, host, clock, own } = context
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

  const ended = Promise.withResolvers<SandboxEnd>()
  const machine = makeMachine({
    hostname: config.hostname ?? DEFAULT_HOSTNAME,
    maxDiskBytes: config.resources.diskMb * 1024 * 1024,
    clock,
    die: (detail) => end({ by: 'itself', detail, oomKills: machine.oomKills }),
  })
  const agent = fakeAgent(machine, async (request) => {
    if (options.startMs) await clock.sleep(options.startMs, { signal: new AbortController().signal })
    if (options.dies?.(request, config)) machine.die('the agent died')
  })
  let peakDiskBytes = 0
  const end = (how: SandboxEnd) => {
    host.sandboxes.delete(config.id)
    own.delete(config.id)
    const detail = how.by === 'destroy' ? 'it was destroyed' : how.detail
    agent.end(new BrambleError('sandbox_died', { detail: `sandbox ${config.id}: ${detail}` }))
    ended.resolve(how)
  }
  const destroy = async () => end({ by: 'destroy' })
  const sandbox: Sandbox = {
    id: config.id,
    runtime: 'fake',
    config,
    agent,
    ended: ended.promise,
    ...withoutPause,
    stats: async () => {
      const { usedBytes } = machine.files
      peakDiskBytes = Math.max(peakDiskBytes, usedBytes)
      // Its files are all the memory it has.
      const memory = { memoryBytes: usedBytes, peakMemoryBytes: peakDiskBytes }
      return {
        cpuMs: 0,
        ...memory,
        oomKills: machine.oomKills,
        diskBytes: usedBytes,
        egressBytes: 0,
        ingressBytes: 0,
        processes: machine.processes.size,
      }
    },
    destroy,
    [Symbol.asyncDispose]: destroy,
  }
  host.sandboxes.set(config.id, () => end({ by: 'destroy' }))
  own.set(config.id, sandbox)
  return sandbox
}
