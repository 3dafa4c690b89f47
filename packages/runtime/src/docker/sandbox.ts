import { BrambleError, type SandboxId } from '@bramble/protocol'
import type Docker from 'dockerode'
import type { Agent } from '../agent/agent.ts'
import { connectAgent } from '../agent/connect-agent.ts'
import type { Sandbox, SandboxConfig, SandboxEnd } from '../runtime.ts'
import type { Sealed } from '../seals/seals.ts'
import { withoutPause } from '../without.ts'
import { containerOptions } from './container.ts'
import { statusOf, wordsOf } from './engine.ts'
import type { EngineEvents } from './events.ts'
import { type AgentProgram, refreshAgent } from './image.ts'
import { type Demultiplexed, demultiplex } from './multiplexed.ts'
import { readStats } from './stats.ts'

export interface DockerContext {
  readonly engine: Docker
  readonly node: string
  readonly agent: AgentProgram
  readonly diskQuota: boolean
  readonly cgroupVersion: 1 | 2
  readonly events: EngineEvents
  readonly own: Map<SandboxId, DockerSandbox>
  /** Ids of this process, those that are being made included. */
  readonly ids: Set<SandboxId>
  /** Layers that a sandbox is being made on. */
  readonly busyLayers: Set<string>
  /** Whether the engine can stop processes where they are; found by trying. */
  pause: boolean
  /** Makes a seal of a container's files. */
  readonly seal: SealContainer
}

type SealContainer = (
  sandbox: { readonly container: Docker.Container; readonly config: SandboxConfig },
  options: Parameters<NonNullable<Sandbox['seal']>>[0],
) => Promise<Sealed>

export interface DockerSandbox extends Sandbox {
  /** It is kept and runs, but the connection to its agent is over: it may be attached to again. */
  readonly lost: boolean
  /** It is kept, and goes on without this process, or as another object of it. */
  letGo(): Promise<void>
}

const CONFLICT = 409
const NOT_FOUND = 404
const NOT_MODIFIED = 304

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
    // The sandbox that the image was may have changed it, and the host's may be a newer one.
    if (config.from) await refreshAgent(container, context.agent)
    signal?.throwIfAborted()
    const streams = { stream: true, hijack: true, stdin: true, stdout: true, stderr: true }
    attached = demultiplex(await container.attach(streams))
    signal?.throwIfAborted()
    await container.start()
    const agent = await connectAgent(attached.stream, { signal })
    return trackSandbox(context, { config, container, agent, stderr: attached.stderr, paused: false })
  } catch (cause) {
    attached?.stream.destroy()
    await removeContainer(container).finally(() => context.ids.delete(config.id))
    signal?.throwIfAborted()
    throw asFailed(cause, attached?.stderr())
  }
}

/** The words of the engine, of the agent, or of both. */
export const asFailed = (cause: unknown, said: string | undefined): BrambleError => {
  const detail = [cause instanceof BrambleError ? cause.detail : wordsOf(cause), said].filter(Boolean).join(': ')
  return new BrambleError('sandbox_failed', { detail, cause })
}

export interface Connected {
  readonly config: SandboxConfig
  readonly container: Docker.Container
  readonly agent: Agent
  /** What the agent, or what carries its stream, said last on standard error. */
  readonly stderr: () => string
  readonly paused: boolean
}

/** A sandbox whose container runs and whose agent is connected. */
export const trackSandbox = (context: DockerContext, connected: Connected): DockerSandbox => {
  const { events, own, ids } = context
  const { config, container, agent, stderr } = connected
  const ended = Promise.withResolvers<SandboxEnd>()
  const seenOomKills = () => events.oomKills(container.id)
  let { paused } = connected
  let changing: Promise<void> = Promise.resolve()
  let ending: Promise<void> | undefined
  let lost = false
  /** Nothing here is ours any more. */
  let over = false

  const forget = () => {
    over = true
    own.delete(config.id)
    ids.delete(config.id)
    events.forget(container.id)
  }
  const end = () => {
    ending ??= (config.keep ? stopContainer(container) : removeContainer(container)).finally(forget)
    return ending
  }
  let destroyed = false
  const destroy = async () => {
    if (over) return ending
    destroyed = true
    await end()
    await agent.close()
    ended.resolve({ by: 'destroy' })
  }
  const letGo = async () => {
    if (over || ending) return
    forget()
    await agent.close()
  }
  const endedByItself = async (error: Error | undefined) => {
    if (over || ending) return
    const { running, detail, oomKills } = await describeEnd(container, seenOomKills)
    if (over || ending) return
    // The container's own end is told by the engine.
    lost = running && config.keep !== undefined
    if (lost) return
    const words = [detail, error?.message, stderr()].filter(Boolean).join('; ')
    await end().catch(() => undefined)
    await agent.close()
    if (!destroyed) ended.resolve({ by: 'itself', detail: words, oomKills })
  }
  void agent.closed.then(endedByItself)
  events.onEnd(container.id, () => void endedByItself(undefined))
  // One after another: the last to be asked for is what holds.
  const setPaused = (wanted: boolean): Promise<void> => {
    changing = changing
      .catch(() => {})
      .then(async () => {
        if (wanted === paused) return
        if (over || ending) throw new BrambleError('sandbox_died', { detail: 'the sandbox has ended' })
        await (wanted ? container.pause() : container.unpause()).catch((cause) => {
          throw asFailed(cause, undefined)
        })
        paused = wanted
      })
    return changing
  }

  const sandbox: DockerSandbox = {
    id: config.id,
    runtime: 'docker',
    config,
    agent,
    ended: ended.promise,
    ...(context.pause ? { pause: () => setPaused(true), resume: () => setPaused(false) } : withoutPause),
    get paused() {
      return paused
    },
    stats: () =>
      readStats(container, agent, { cgroupVersion: context.cgroupVersion, paused, seenOomKills }).catch((cause) => {
        throw new BrambleError('sandbox_died', { detail: `no statistics: ${wordsOf(cause)}`, cause })
      }),
    ...(context.pause && {
      seal: async (options) => {
        if (over || ending) throw new BrambleError('sandbox_died', { detail: 'the sandbox has ended' })
        return await context.seal({ container, config }, options)
      },
    }),
    get lost() {
      return lost
    },
    destroy,
    letGo,
    [Symbol.asyncDispose]: destroy,
  }
  own.set(config.id, sandbox)
  return sandbox
}

/** Why a container ended, as far as the engine still knows. */
const describeEnd = async (
  container: Docker.Container,
  seenOomKills: () => number,
): Promise<{ running: boolean; detail: string; oomKills: number }> => {
  try {
    const { State } = await container.inspect()
    const running = State.Running
    const detail = running ? 'the agent closed its stream' : `the agent ended with ${State.ExitCode}`
    return { running, detail, oomKills: Math.max(seenOomKills(), State.OOMKilled ? 1 : 0) }
  } catch (error) {
    // An engine that does not answer has ended nothing.
    return { running: statusOf(error) !== NOT_FOUND, detail: wordsOf(error), oomKills: seenOomKills() }
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

/** Kills what runs and waits for its end; the container stays. One that does not run, or is gone, is no error. */
export const stopContainer = async (container: Docker.Container): Promise<void> => {
  try {
    // Whoever is paused is not killed before it goes on.
    await container.unpause().catch(() => undefined)
    await container.kill({ signal: 'SIGKILL' })
  } catch (error) {
    const status = statusOf(error)
    if (status !== NOT_FOUND && status !== CONFLICT && status !== NOT_MODIFIED)
      throw new BrambleError('sandbox_failed', { detail: wordsOf(error), cause: error })
  }
  await container.wait({ condition: 'not-running' }).catch((error) => {
    if (statusOf(error) !== NOT_FOUND) throw error
  })
}
