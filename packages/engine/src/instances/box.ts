import { setTimeout as after } from 'node:timers/promises'
import { BrambleError, newId, type SandboxId, toBrambleError } from '@bramble/protocol'
import {
  type LocalImage,
  observeSandbox,
  type Runtime,
  type Sandbox,
  type SandboxConfig,
  type SandboxEnd,
} from '@bramble/runtime'
import { HOSTNAME } from '../command.ts'
import type { InstanceRow } from '../store/instance-tables.ts'
import type { InstanceChange } from '../store/instances.ts'
import { defaultsOf, requestFor } from './command.ts'
import { type Context, inBackground, save, tell } from './context.ts'
import { type Box, type BoxEnd, boxEnding, type LiveInstance, MAIN } from './live-instance.ts'
import { chargeInstance } from './metering.ts'
import { leavePlace } from './place.ts'
import { shareObserver } from './shared-observer.ts'

/** How long a runtime may take to say why a sandbox ended whose agent fell silent. */
const LAST_WORDS_MS = 500
/** A connection that was repaired is repaired again when it has lasted so long: one that breaks at once is of no use. */
const RECONNECT_AGAIN_MS = 60_000

/** The driver that the instance's layer belongs to. */
export const runtimeOf = (context: Context, { runtime: name }: InstanceRow): Runtime => {
  const runtime = context.runtimes.find((one) => one.name === name)
  if (runtime) return runtime
  throw new BrambleError('unsupported', { detail: `this node does not offer the runtime \`${name}\` of the instance` })
}

/** What begins as something else is another machine; all that do not look alike. */
const hostnameOf = ({ row, spec }: LiveInstance): string =>
  spec.name ?? (row.parent === null ? HOSTNAME : row.id.replace('_', '-'))

export const configOf = (live: LiveInstance, image: LocalImage): SandboxConfig => {
  const { row, spec } = live
  const { cpus, memoryMb, diskMb, pids } = spec.resources
  const id = row.sandbox_id
  if (id === null) throw new BrambleError('internal', { detail: `instance ${row.id} has no sandbox` })
  return {
    id: id as SandboxId,
    image,
    resources: { cpus, memoryMb, diskMb, pids },
    isolation: spec.isolation,
    hostname: hostnameOf(live),
    keep: { layer: row.layer },
    network: spec.network,
    mounts: live.mounts,
  }
}

/** Makes the sandbox that the row names. Rejects, with nothing left behind, after `startTimeoutMs` or an abort. */
export const makeSandbox = async (context: Context, live: LiveInstance, signal: AbortSignal): Promise<Box> => {
  const { startTimeoutMs } = context.limits
  const timeout = AbortSignal.timeout(startTimeoutMs)
  const either = AbortSignal.any([timeout, signal])
  try {
    const image = context.images.resolve(live.row.image_digest)
    const runtime = runtimeOf(context, live.row)
    await runtime.prepare(image, { signal: either })
    const config = { ...configOf(live, image), ...(live.from && { from: live.from }) }
    const sandbox = await runtime.create(config, { signal: either })
    return openBox(live, runtime, image, sandbox)
  } catch (error) {
    if (!timeout.aborted || signal.aborted) throw error
    throw new BrambleError('sandbox_failed', { detail: `it was not ready after ${startTimeoutMs} ms`, cause: error })
  }
}

/** Takes over the sandbox that the row names, and makes it run where it was paused. */
export const attachSandbox = async (context: Context, live: LiveInstance, signal: AbortSignal): Promise<Box> => {
  const image = context.images.resolve(live.row.image_digest)
  const runtime = runtimeOf(context, live.row)
  const sandbox = await runtime.attach(configOf(live, image), { signal })
  try {
    if (sandbox.paused) await sandbox.resume()
  } catch (error) {
    await sandbox.destroy().catch(() => {})
    throw error
  }
  return openBox(live, runtime, image, sandbox)
}

/** Ends the sandbox that the row names where it could not be taken over: the next start is to have its layer. */
export const endLeft = async (context: Context, live: LiveInstance): Promise<void> => {
  const rows = [...context.byId.values()].map(({ row }) => row).filter(({ id }) => id !== live.id)
  const others = rows.flatMap(({ sandbox_id }) => (sandbox_id === null ? [] : [sandbox_id as SandboxId]))
  try {
    await runtimeOf(context, live.row).reap(new Set(others))
  } catch (error) {
    context.log.error({ err: error, instance: live.id }, 'a sandbox that was given up is reaped at the next start')
  }
}

const openBox = (live: LiveInstance, runtime: Runtime, image: LocalImage, sandbox: Sandbox): Box => {
  const box: Box = {
    runtime,
    image,
    defaults: defaultsOf(live.spec, image),
    sandbox,
    ready: false,
    over: false,
    reconnectedMs: undefined,
    oomKills: 0,
    ended: boxEnding(),
    running: new Set(),
    observer: shareObserver((signal) => observeSandbox(box.sandbox.agent, { signal })),
  }
  return box
}

/** The instance has this sandbox from now on. */
export const enterBox = (context: Context, live: LiveInstance, box: Box): void => {
  live.box = box
  live.stream.connect(box.sandbox.agent, live.row.run)
  box.ready = true
  watch(context, live, box)
}

/** Starts `spec.command`, where there is one. That it cannot be started is an event like its end. */
export const startMain = (live: LiveInstance, box: Box): void => {
  const { command } = live.spec
  if (command === undefined) return
  const request = requestFor(live.spec, box.image, box.defaults, { command, env: {} }, 'none')
  box.sandbox.agent.log.start(request, MAIN)
}

const watch = (context: Context, live: LiveInstance, box: Box): void => {
  const { sandbox } = box
  void sandbox.ended.then((end) => {
    if (sandbox === box.sandbox) died(context, live, box, reasonOf(end))
  })
  void sandbox.agent.closed.then((error) => {
    if (box.over || context.closing.signal.aborted || sandbox !== box.sandbox) return
    box.ready = false
    inBackground(context, live, () => reconnect(context, live, box, error))
  })
}

/** Waits a moment for the runtime to say that the sandbox has ended. */
const lastWords = async (sandbox: Sandbox): Promise<void> => {
  const patience = new AbortController()
  const late = after(LAST_WORDS_MS, undefined, { signal: patience.signal }).catch(() => {})
  await Promise.race([sandbox.ended, late])
  patience.abort()
}

const reasonOf = (end: SandboxEnd): string => {
  if (end.by === 'destroy') return 'the sandbox was destroyed'
  if (end.oomKills > 0) return `the sandbox ran out of memory (\`resources.memoryMb\`): ${end.detail}`
  return `the sandbox ended by itself: ${end.detail}`
}

/** The connection to the agent was lost, and the sandbox runs: now and then that may be repaired. */
const reconnect = async (context: Context, live: LiveInstance, box: Box, error: Error | undefined): Promise<void> => {
  await lastWords(box.sandbox)
  if (box.over || live.box !== box || context.closing.signal.aborted) return
  const why = error ? toBrambleError(error).detail : 'it was closed'
  const nowMs = context.clock.monotonicMs()
  if (box.reconnectedMs === undefined || nowMs - box.reconnectedMs >= RECONNECT_AGAIN_MS) {
    const lost = box.sandbox
    box.reconnectedMs = nowMs
    try {
      const sandbox = await box.runtime.attach(configOf(live, box.image), { signal: context.closing.signal })
      box.sandbox = sandbox
      const paused = live.row.status === 'paused'
      if (sandbox.paused !== paused) await (paused ? sandbox.pause() : sandbox.resume())
      live.stream.connect(sandbox.agent, live.row.run)
      watch(context, live, box)
      box.ready = live.row.status === 'running'
      return
    } catch (cause) {
      context.log.warn({ err: cause, instance: live.id }, 'the agent of an instance could not be connected again')
    }
    if (box.sandbox === lost) await endLeft(context, live)
  }
  box.over = true
  await buryBox(context, live, box, `the connection to its agent was lost: ${why}`)
}

/** The sandbox is gone, at nobody's wish. */
const died = (context: Context, live: LiveInstance, box: Box, reason: string): void => {
  if (box.over) return
  box.over = true
  box.ready = false
  inBackground(context, live, () => buryBox(context, live, box, reason))
}

const buryBox = async (context: Context, live: LiveInstance, box: Box, reason: string): Promise<void> => {
  if (live.box !== box) return
  context.log.warn({ instance: live.id, reason }, 'an instance stopped by itself')
  await loseBox(context, live, box, { status: 'stopped', reason })
  tell(context, live, 'ended')
}

/** Destroys the sandbox, and writes that the instance has none: stopped, or as `change` says. Files stay. */
export const loseBox = async (
  context: Context,
  live: LiveInstance,
  box: Box,
  end: BoxEnd,
  change: InstanceChange = {},
): Promise<void> => {
  box.over = true
  box.ready = false
  const charged = await chargeInstance(context, live)
  const destroyed = await box.sandbox.destroy().then(
    () => true,
    (error: unknown) => {
      const { id } = box.sandbox
      context.log.error({ err: error, sandbox: id }, 'a sandbox could not be destroyed; the next start reaps it')
      return false
    },
  )
  live.box = undefined
  const { reason = null } = end
  const stopped: InstanceChange = {
    ...charged,
    status: 'stopped',
    reason,
    sandbox_id: null,
    charged_at: null,
    ...change,
  }
  try {
    // What may still be written to is not to be looked at.
    if (destroyed) await promoteCaches(context, live)
    if (end.status !== 'deleted') await save(context, live, stopped)
  } finally {
    // So it is, whether it could be written or not.
    Object.assign(live.row, stopped)
    leavePlace(live)
    live.stream.disconnect()
    box.ended.resolve(end)
  }
}

/** What the instance added to its dependency caches becomes its tenant's. */
const promoteCaches = async (context: Context, live: LiveInstance): Promise<void> => {
  if (live.spec.caches.length === 0 || context.volumes === undefined) return
  await context.volumes.promote(live.row.tenant, live.row.layer, { keep: true }).catch((error: unknown) => {
    context.log.warn({ err: error, instance: live.id }, 'its caches could not be promoted')
  })
}

export const newSandboxId = (): SandboxId => newId('sandbox')
