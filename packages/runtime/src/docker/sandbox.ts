import { BrambleError, type SandboxId } from '@bramble/protocol'
import type Docker from 'dockerode'
import { connectAgent } from '../agent/connect-agent.ts'
import type { Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import { withoutPause } from '../without.ts'
import { containerOptions } from './container.ts'
import { statusOf, wordsOf } from './engine.ts'
import type { OomWatch } from './events.ts'
import { type Demultiplexed, demultiplex } from './multiplexed.ts'
import { readStats } from './stats.ts'

export interface DockerContext {
  readonly engine: Docker
  readonly node: string
  readonly diskQuota: boolean
  readonly cgroupVersion: 1 | 2
  readonly oom: OomWatch
  readonly own: Map<SandboxId, Sandbox>
  /** Ids of this process, those that are being made included. */
  readonly ids: Set<SandboxId>
}

const CONFLICT = 409
const NOT_FOUND = 404

/**
 * Makes, attaches and starts the container of a sandbox, and waits for its agent's hello. A failure or an abort removes
 * what was made.
 */
export const createSandbox = async (
  context: DockerContext,
  config: SandboxConfig,
  image: string,
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  signal?.throwIfAborted()
  context.ids.add(config.id)
  const container = await context.engine
    .createContainer(containerOptions(config, { ...context, image }))
    .catch((error: unknown) => {
      context.ids.delete(config.id)
      throw error
    })
  let attached: Demultiplexed | undefined
  try {
    signal?.throwIfAborted()
    const streams = { stream: true, hijack: true, stdin: true, stdout: true, stderr: true }
    attached = demultiplex(await container.attach(streams))
    signal?.throwIfAborted()
    await container.start()
    return await connect(context, config, container, attached, signal)
  } catch (cause) {
    attached?.stream.destroy()
    await removeContainer(container).finally(() => context.ids.delete(config.id))
    signal?.throwIfAborted()
    const said = attached?.stderr()
    const detail = [cause instanceof BrambleError ? cause.detail : wordsOf(cause), said].filter(Boolean).join(': ')
    throw new BrambleError('sandbox_failed', { detail, cause })
  }
}

const connect = async (
  context: DockerContext,
  config: SandboxConfig,
  container: Docker.Container,
  { stream, stderr }: Demultiplexed,
  signal: AbortSignal | undefined,
): Promise<Sandbox> => {
  const { oom, own, ids } = context
  const agent = await connectAgent(stream, { signal })
  const ended = Promise.withResolvers<SandboxEnd>()
  const seenOomKills = () => oom.count(container.id)
  let removed: Promise<void> | undefined
  let destroyed = false

  const remove = () => {
    removed ??= removeContainer(container).finally(() => {
      own.delete(config.id)
      ids.delete(config.id)
      oom.forget(container.id)
    })
    return removed
  }
  const destroy = async () => {
    destroyed = true
    await remove()
    await agent.close()
    ended.resolve({ by: 'destroy' })
  }
  void agent.closed.then(async (error) => {
    if (destroyed) return
    const end = await describeEnd(container, seenOomKills)
    const detail = [end.detail, error?.message, stderr()].filter(Boolean).join('; ')
    await remove().catch(() => undefined)
    if (!destroyed) ended.resolve({ by: 'itself', detail, oomKills: end.oomKills })
  })

  const sandbox: Sandbox = {
    id: config.id,
    runtime: 'docker',
    config,
    agent,
    ended: ended.promise,
    ...withoutPause,
    stats: () =>
      readStats(container, agent, context.cgroupVersion, seenOomKills).catch((cause) => {
        throw new BrambleError('sandbox_died', { detail: `no statistics: ${wordsOf(cause)}`, cause })
      }),
    destroy,
    [Symbol.asyncDispose]: destroy,
  }
  own.set(config.id, sandbox)
  return sandbox
}

/** Why a container ended, as far as the engine still knows. */
const describeEnd = async (
  container: Docker.Container,
  seenOomKills: () => number,
): Promise<{ detail: string; oomKills: number }> => {
  try {
    const { State } = await container.inspect()
    const detail = State.Running ? 'the agent closed its stream' : `the agent ended with ${State.ExitCode}`
    return { detail, oomKills: Math.max(seenOomKills(), State.OOMKilled ? 1 : 0) }
  } catch (error) {
    return { detail: wordsOf(error), oomKills: seenOomKills() }
  }
}

/** Kills what runs, waits for its end, and removes the container; one that is gone is no error. */
export const removeContainer = async (container: Docker.Container): Promise<void> => {
  try {
    await container.remove({ force: true, v: true })
  } catch (error) {
    const status = statusOf(error)
    if (status === NOT_FOUND) return
    // Somebody else removes it: it is gone when they are done.
    if (status !== CONFLICT) throw new BrambleError('sandbox_failed', { detail: wordsOf(error), cause: error })
    await container.wait({ condition: 'removed' }).catch((late) => {
      if (statusOf(late) !== NOT_FOUND) throw late
    })
  }
}
