import { mkdir, readdir, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { BrambleError, type SandboxId, sandboxIdSchema } from '@bramble/protocol'
import { agentBinaryPath } from '../agent/agent-binary.ts'
import type { Capabilities, Probe, Runtime } from '../runtime.ts'
import { attachKept, createKept, findKept, processLayers } from './kept.ts'
import { createSandbox, type ProcessContext, removeLeft } from './process-sandbox.ts'

export interface ProcessDeps {
  /** Directory of this node; the runtime uses `process/` below it. */
  readonly dataDirectory: string
  /** The agent's program. Default: the one that `bramble setup` builds. */
  readonly agentPath?: string
}

const CAPABILITIES: Capabilities = {
  isolation: 'none',
  limits: { cpu: false, memory: false, pids: false, disk: false },
  userNamespace: false,
  seccomp: false,
  pause: false,
  // What its commands wrote lies anywhere on the host: its directory alone is no state that another could continue.
  seals: false,
  checkpoint: false,
  keep: true,
  volumes: false,
  // What the host has, whatever was asked for.
  network: ['none', 'egress'],
}

/**
 * Sandboxes that are none: the agent as a plain process of this user, with a temporary directory to work in. Commands see
 * and may do everything that the node's user may, the image is ignored, and no limit holds. For one's own code, on a
 * host that can isolate nothing; only `--no-isolation` asks for it.
 */
export const processes =
  () =>
  async (deps: ProcessDeps): Promise<Probe<Runtime>> => {
    if (process.platform !== 'linux')
      return { available: false, reason: 'the agent runs on Linux only', hint: 'use the docker runtime here' }
    try {
      const parent = join(deps.dataDirectory, 'process')
      await mkdir(parent, { recursive: true, mode: 0o700 })
      const directory = await realpath(parent)
      const agentPath = deps.agentPath ?? agentBinaryPath()
      const runtime = makeRuntime({ directory, agentPath, own: new Map(), ids: new Set(), busyLayers: new Set() })
      return { available: true, runtime }
    } catch (error) {
      const reason = error instanceof BrambleError ? error.detail : String(error)
      return { available: false, reason, hint: '`./bramble setup` builds the agent' }
    }
  }

const makeRuntime = (context: ProcessContext): Runtime => {
  const { directory, own, ids } = context
  const creating = new Set<Promise<unknown>>()
  let closed: Promise<void> | undefined

  const list = async (): Promise<SandboxId[]> =>
    (await readdir(directory)).flatMap((name) => {
      const id = sandboxIdSchema.safeParse(name)
      return id.success ? [id.data] : []
    })
  /** What `close` waits for. */
  const pending = <T>(made: Promise<T>): Promise<T> => {
    creating.add(made)
    const done = () => void creating.delete(made)
    made.then(done, done)
    return made
  }
  const close = () => {
    closed ??= (async () => {
      await Promise.allSettled(creating)
      await Promise.all([...own.values()].map((each) => (each.config.keep ? each.letGo() : each.destroy())))
    })()
    return closed
  }
  return {
    name: 'process',
    capabilities: CAPABILITIES,
    prepare: async (_image, { signal } = {}) => signal?.throwIfAborted(),
    create: (config, { signal } = {}) => {
      if (closed) return Promise.reject(new BrambleError('shutting_down', { detail: 'the runtime is closed' }))
      const { keep } = config
      return pending(keep ? createKept(context, { ...config, keep }, signal) : createSandbox(context, config, signal))
    },
    attach: (config, { signal } = {}) => {
      if (closed) return Promise.reject(new BrambleError('shutting_down', { detail: 'the runtime is closed' }))
      return pending(attachKept(context, config, signal))
    },
    list: async () => {
      // A kept one whose agent is gone is a layer, no more.
      const dead = (await findKept(context)).filter(({ identity, id }) => !identity && !ids.has(id)).map(({ id }) => id)
      return (await list()).filter((id) => !dead.includes(id))
    },
    reap: async (keep = new Set()) => {
      const kept = await findKept(context)
      const stays = new Set(kept.filter(({ id, identity }) => identity && keep.has(id)).map(({ id }) => id))
      const dead = new Set(kept.filter(({ identity }) => !identity).map(({ id }) => id))
      const left = (await list()).filter((id) => !ids.has(id) && !stays.has(id))
      await Promise.all(left.map((id) => removeLeft(join(directory, id))))
      return left.filter((id) => !dead.has(id)).length
    },
    layers: processLayers(context),
    forget: async () => undefined,
    close,
    [Symbol.asyncDispose]: close,
  }
}
