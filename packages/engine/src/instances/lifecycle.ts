import { BrambleError, type InstanceSpec, type InstanceStatus, newId } from '@bramble/protocol'
import type { LocalImage, Runtime } from '@bramble/runtime'
import { mountsFor } from '../mounts.ts'
import type { InstanceChangeKind } from '../options.ts'
import type { InstanceRow } from '../store/instance-tables.ts'
import { deleteInstance, type InstanceChange, insertInstances, updateInstances } from '../store/instances.ts'
import { attachSandbox, endLeft, enterBox, loseBox, makeSandbox, newSandboxId, runtimeOf, startMain } from './box.ts'
import { defaultsOf } from './command.ts'
import { type Context, save, tell, timeText } from './context.ts'
import { armDeadline } from './idle.ts'
import type { InstanceContext } from './instances.ts'
import type { Box, LiveInstance } from './live-instance.ts'
import { chargeInstance } from './metering.ts'
import { leavePlace, takePlace } from './place.ts'
import { endPolitely } from './politely.ts'
import type { Origin } from './states.ts'

/** When what could not be removed is tried again. */
const REMOVE_AGAIN_MS = 60_000

/** The rules of one instance's life. All but `createIn` run within `live.exclusive`. */

const conflict = (live: LiveInstance, wish: string): BrambleError =>
  new BrambleError('conflict', { detail: `the instance is ${live.row.status}: it cannot be ${wish}` })

const assertStatus = (live: LiveInstance, wish: string, ...allowed: InstanceStatus[]): void => {
  if (live.row.doomed) throw new BrambleError('not_found', { detail: `there is no instance ${live.id}` })
  if (!allowed.includes(live.row.status)) throw conflict(live, wish)
}

/** The box of a running instance; one whose sandbox just ended is as good as stopped. */
const boxOf = (live: LiveInstance, wish: string): Box => {
  if (!live.box || live.box.over)
    throw new BrambleError('conflict', { detail: `its sandbox ended: it cannot be ${wish}` })
  return live.box
}

/** Throws `unsupported` where the runtime cannot do what the spec asks for. */
export const assertOffered = (context: Context, spec: InstanceSpec, runtime: Runtime): void => {
  const { capabilities, name } = runtime
  const refuse = (what: string): never => {
    throw new BrambleError('unsupported', { detail: `the runtime \`${name}\` of this node does not offer ${what}` })
  }
  if (!capabilities.keep) refuse('instances (sandboxes that are kept)')
  const network = typeof spec.network === 'string' ? spec.network : 'allow'
  if (!capabilities.network.includes(network)) refuse(`the network \`${network}\``)
  const mounts = spec.volumes.length + spec.caches.length > 0
  if (mounts && (!capabilities.volumes || context.volumes === undefined)) refuse('volumes and caches')
  if (spec.idleTtlMs !== undefined && spec.idleAction === 'pause' && !capabilities.pause)
    refuse('pausing (`idleAction`): use `stop`')
}

const mountsOf = async ({ volumes, images }: Context, { row, spec }: LiveInstance): Promise<string> => {
  const image = images.resolve(row.image_digest)
  const { user } = defaultsOf(spec, image)
  const wishes = { tenant: row.tenant, volumes: spec.volumes, caches: spec.caches, user, env: spec.env, image }
  return JSON.stringify(await mountsFor(volumes, wishes))
}

export const rowOf = (
  spec: InstanceSpec,
  { tenant, keyId, quota = {}, ...wish }: InstanceContext,
  made: { image: LocalImage; runtime: Runtime; nowMs: number; parent: string | undefined },
): InstanceRow => {
  const id = wish.id ?? newId('instance', { now: () => made.nowMs })
  return {
    id,
    tenant,
    key_id: keyId,
    quota: JSON.stringify(quota),
    name: spec.name ?? null,
    status: 'starting',
    doomed: 0,
    made: 0,
    reason: null,
    spec: JSON.stringify(spec),
    image_digest: made.image.digest,
    runtime: made.runtime.name,
    sandbox_id: null,
    layer: id,
    mounts: '[]',
    run: 0,
    created_at: timeText(made.nowMs),
    started_at: null,
    expires_at: spec.ttlMs === undefined ? null : timeText(made.nowMs + spec.ttlMs),
    used_at: null,
    charged_at: null,
    charged_cpu_ms: 0,
    charged_egress_bytes: 0,
    snapshot_id: null,
    parent: made.parent ?? null,
  }
}

/** From a place taken to a box. What fails leaves the place, and the instance as it was. */
const makeBox = async (context: Context, live: LiveInstance, signal: AbortSignal): Promise<Box> => {
  const box = await makeSandbox(context, live, signal)
  try {
    // With memory, it runs already.
    if (!live.from?.memory) startMain(live, box)
  } catch (error) {
    await box.sandbox.destroy()
    throw error
  }
  live.from = undefined
  return box
}

/** What the row of an instance says of a box that is new. */
const begun = (context: Context): InstanceChange => {
  const now = timeText(context.clock.now())
  return {
    status: 'running',
    made: 1,
    reason: null,
    started_at: now,
    used_at: null,
    charged_at: now,
    charged_cpu_ms: 0,
    charged_egress_bytes: 0,
  }
}

/** It is written: the box is used from now on. */
const enter = (context: Context, live: LiveInstance, box: Box, change: InstanceChangeKind): void => {
  live.lastUsedMs = context.clock.now()
  enterBox(context, live, box)
  armDeadline(context, live)
  tell(context, live, change)
}

const run = async (
  context: Context,
  live: LiveInstance,
  signal: AbortSignal,
  change: InstanceChangeKind,
): Promise<void> => {
  const { sandbox_id } = live.row
  const box = await makeBox(context, live, signal)
  try {
    await save(context, live, { ...begun(context), sandbox_id, mounts: live.row.mounts, snapshot_id: null })
  } catch (error) {
    await box.sandbox.destroy()
    throw error
  }
  enter(context, live, box, change)
}

/** Rejects with the first failure when all have settled. */
const allOf = async <T>(works: readonly Promise<T>[]): Promise<T[]> => {
  const settled = await Promise.allSettled(works)
  const failed = settled.find((one) => one.status === 'rejected')
  if (failed) throw failed.reason
  return settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
}

/**
 * Makes instances that are new in `context.byId`: all of them, side by side, or none, and then nothing of them is left.
 * `origin`: the state that they begin as, where it is not their image.
 */
export const createIn = async (
  context: Context,
  lives: readonly LiveInstance[],
  signal: AbortSignal,
  origin: Origin | undefined,
): Promise<void> => {
  const boxes = new Map<LiveInstance, Box>()
  let inserted = false
  let began = false
  try {
    await allOf(lives.map((live) => takePlace(context, live, signal)))
    for (const live of lives) {
      live.row.mounts = await mountsOf(context, live)
      live.row.sandbox_id = newSandboxId()
    }
    await insertInstances(
      context.db,
      lives.map(({ row, spec }) => ({ row, labels: spec.labels })),
    )
    inserted = true
    await allOf(lives.map(async (live) => boxes.set(live, await makeBox(context, live, signal))))
    const change = begun(context)
    if (origin) {
      began = true
      await context.states.began(
        lives.map(({ id }) => id),
        origin,
      )
    }
    await updateInstances(context.db, new Map(lives.map(({ id }) => [id, change])))
    for (const [live, box] of boxes) {
      Object.assign(live.row, change)
      live.stream.events.emit('state')
      enter(context, live, box, 'started')
    }
  } catch (error) {
    await Promise.all([...boxes.values()].map(({ sandbox }) => sandbox.destroy().catch(() => {})))
    for (const live of lives) leavePlace(live)
    await Promise.all(lives.map((live) => undoCreate(context, live, inserted)))
    if (began) await context.states.forget(lives.map(({ id }) => id)).catch(() => {})
    throw error
  }
}

const undoCreate = async (context: Context, live: LiveInstance, inserted: boolean): Promise<void> => {
  try {
    if (!inserted) return
    await removeFiles(context, live)
    await deleteInstance(context.db, live.id)
  } catch (error) {
    context.log.error({ err: error, instance: live.id }, 'what is left of an instance is removed at the next start')
  } finally {
    context.forget(live)
  }
}

export const startIn = async (context: Context, live: LiveInstance): Promise<void> => {
  assertStatus(live, 'started', 'stopped')
  const { signal } = context.closing
  await takePlace(context, live, signal)
  try {
    using _state = await openSaved(context, live, false)
    const mounts = await mountsOf(context, live)
    await save(context, live, { status: 'starting', sandbox_id: newSandboxId(), run: live.row.run + 1, mounts })
    await run(context, live, signal, 'started')
  } catch (error) {
    live.from = undefined
    leavePlace(live)
    const reason = `it could not be started: ${error instanceof BrambleError ? error.detail : String(error)}`
    await save(context, live, { status: 'stopped', sandbox_id: null, reason })
    throw error
  }
}

/** Its state is in a snapshot, and it has no sandbox. */
export const isSaved = ({ row }: LiveInstance): boolean =>
  row.snapshot_id !== null && row.sandbox_id === null && row.status === 'paused'

/** Where its state is in a snapshot, that is what its next sandbox begins as; its layer is an earlier one. */
const openSaved = async (context: Context, live: LiveInstance, memory: boolean): Promise<Disposable | undefined> => {
  const { row } = live
  if (row.snapshot_id === null) return undefined
  const state = await context.states.open(row.snapshot_id, row.tenant, { memory, signal: context.closing.signal })
  try {
    await runtimeOf(context, row).layers.remove(row.layer)
    live.from = { seal: state.seal, memory: state.memory }
    return state
  } catch (error) {
    state[Symbol.dispose]()
    throw error
  }
}

/** Its processes go on in a new sandbox; what its clients see goes on where it was. */
const resumeSaved = async (context: Context, live: LiveInstance): Promise<void> => {
  const { signal } = context.closing
  await takePlace(context, live, signal)
  try {
    using _state = await openSaved(context, live, true)
    live.row.mounts = await mountsOf(context, live)
    // Not on disk yet: until it runs, it is in the snapshot and nowhere else.
    live.row.sandbox_id = newSandboxId()
    await run(context, live, signal, 'resumed')
  } catch (error) {
    live.from = undefined
    live.row.sandbox_id = null
    leavePlace(live)
    throw error
  }
}

/** Makes a paused instance run again; one that an earlier node paused is taken over first. */
export const resumeIn = async (context: Context, live: LiveInstance): Promise<void> => {
  assertStatus(live, 'resumed', 'paused')
  if (isSaved(live)) return await resumeSaved(context, live)
  if (live.box) await boxOf(live, 'resumed').sandbox.resume()
  else await takeOver(context, live)
  const box = boxOf(live, 'resumed')
  await save(context, live, { status: 'running', reason: null })
  live.lastUsedMs = context.clock.now()
  box.ready = !box.over
  armDeadline(context, live)
  tell(context, live, 'resumed')
}

/** The sandbox of an earlier node becomes this one's, or the instance is stopped, and its sandbox gone. */
export const takeOver = async (context: Context, live: LiveInstance): Promise<void> => {
  const { signal } = context.closing
  try {
    enterBox(context, live, await attachSandbox(context, live, signal))
  } catch (error) {
    if (signal.aborted) throw error
    await endLeft(context, live)
    const reason = `its sandbox could not be taken over: ${error instanceof BrambleError ? error.detail : String(error)}`
    const charged = await chargeInstance(context, live)
    leavePlace(live)
    await save(context, live, { ...charged, status: 'stopped', reason, sandbox_id: null, charged_at: null })
    tell(context, live, 'ended')
    throw new BrambleError('instance_stopped', { detail: reason, cause: error })
  }
}

export const pauseIn = async (context: Context, live: LiveInstance): Promise<void> => {
  assertStatus(live, 'paused', 'running')
  const box = boxOf(live, 'paused')
  if (!box.runtime.capabilities.pause)
    throw new BrambleError('unsupported', { detail: `the runtime \`${box.runtime.name}\` does not offer pausing` })
  box.ready = false
  try {
    const charged = await chargeInstance(context, live)
    await box.sandbox.pause()
    await save(context, live, { ...charged, status: 'paused', reason: null })
  } catch (error) {
    await box.sandbox.resume().catch(() => {})
    box.ready = !box.over
    throw error
  }
  armDeadline(context, live)
  tell(context, live, 'paused')
}

/** False where it could not be: it is stopped then. */
const takenOver = (context: Context, live: LiveInstance): Promise<boolean> =>
  takeOver(context, live).then(
    () => true,
    (error: unknown) => {
      if (live.row.status !== 'stopped') throw error
      return false
    },
  )

export const stopIn = async (context: Context, live: LiveInstance, reason?: string): Promise<void> => {
  assertStatus(live, 'stopped', 'running', 'paused')
  if (isSaved(live)) {
    await save(context, live, { status: 'stopped', reason: reason ?? null })
    tell(context, live, 'stopped')
    return
  }
  if (live.row.status === 'paused') {
    // Processes that stand still cannot end politely.
    if (live.box) await live.box.sandbox.resume()
    else if (!(await takenOver(context, live))) return
  }
  const box = boxOf(live, 'stopped')
  box.ready = false
  await save(context, live, { status: 'stopping' })
  await endPolitely(context, live, box)
  await loseBox(context, live, box, { status: 'stopped', ...(reason !== undefined && { reason }) })
  tell(context, live, 'stopped')
}

/** From now on nobody finds it; where something cannot be removed yet, `finishRemoval` goes on later. */
export const removeIn = async (context: Context, live: LiveInstance): Promise<void> => {
  if (live.row.doomed) throw new BrambleError('not_found', { detail: `there is no instance ${live.id}` })
  await save(context, live, { doomed: 1 })
  await finishRemoval(context, live)
}

/** Removes what is left of an instance that nobody finds any more, its record last. */
export const finishRemoval = async (context: Context, live: LiveInstance): Promise<void> => {
  // One of an earlier node that was not taken over yet.
  if (!live.box && live.place) await takeOver(context, live).catch(() => {})
  if (live.box) await loseBox(context, live, live.box, { status: 'deleted' })
  leavePlace(live)
  try {
    await removeFiles(context, live)
    await deleteInstance(context.db, live.id)
  } catch (error) {
    context.deadlines.set(live, context.clock.now() + REMOVE_AGAIN_MS)
    throw error
  }
  context.forget(live)
  tell(context, live, 'deleted')
}

const removeFiles = async (context: Context, { row, spec }: LiveInstance): Promise<void> => {
  await runtimeOf(context, row).layers.remove(row.layer)
  if (spec.caches.length > 0) await context.volumes?.discard(row.layer)
}
