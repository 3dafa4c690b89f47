import { BrambleError, type InstanceId, type InstanceSpec } from '@bramble/protocol'
import type { LocalImage, Runtime, Sealed } from '@bramble/runtime'
import { loseBox } from './box.ts'
import { type Context, save, tell } from './context.ts'
import { armDeadline } from './idle.ts'
import { takeOver } from './lifecycle.ts'
import type { Box, LiveInstance } from './live-instance.ts'
import { type SealWish, sealBox } from './seal.ts'

/** A seal, and the instance as it was. */
export interface SealedInstance {
  readonly sealed: Sealed
  readonly id: InstanceId
  readonly spec: InstanceSpec
  readonly runtime: Runtime
  readonly image: LocalImage
  /** The host name it has. */
  readonly hostname: string
}

/** Throws where it has no sandbox of which a state could be kept. */
const boxToSeal = async (context: Context, live: LiveInstance): Promise<Box> => {
  const { status, sandbox_id, snapshot_id } = live.row
  if (status !== 'running' && status !== 'paused')
    throw new BrambleError(status === 'stopped' ? 'instance_stopped' : 'conflict', {
      detail: `the instance is ${status}: it has no state to keep`,
    })
  if (sandbox_id === null)
    throw new BrambleError('conflict', {
      detail: `the instance is paused in the snapshot ${snapshot_id}: continue that one, or resume it`,
    })
  if (!live.box) await takeOver(context, live)
  const { box } = live
  if (!box || box.over) throw new BrambleError('conflict', { detail: 'its sandbox ended: it has no state to keep' })
  return box
}

const sealedOf = (live: LiveInstance, { runtime, image, sandbox }: Box, sealed: Sealed): SealedInstance => ({
  sealed,
  id: live.id,
  spec: live.spec,
  runtime,
  image,
  hostname: sandbox.config.hostname ?? '',
})

/** Keeps the state of an instance that runs or is paused. Within `live.exclusive`. */
export const sealIn = async (context: Context, live: LiveInstance, wish: SealWish): Promise<SealedInstance> => {
  const box = await boxToSeal(context, live)
  return sealedOf(live, box, await sealBox(context, live, box, wish))
}

/**
 * Saves the instance, processes and all, by `keep`, which gives the snapshot that it goes on from; then lets its sandbox go.
 * Where that fails it goes on as it was. What its clients are told ends with what is in the snapshot. Within `live.exclusive`.
 */
export const saveIn = async (
  context: Context,
  live: LiveInstance,
  wish: Omit<SealWish, 'memory'>,
  keep: (sealed: SealedInstance) => Promise<string>,
): Promise<void> => {
  const box = await boxToSeal(context, live)
  if (box.running.size > 0)
    throw new BrambleError('checkpoint_refused', {
      detail: `${box.running.size} of its commands were begun by \`exec\` or SSH, and would be lost; those of its stream are not`,
    })
  const wasPaused = box.sandbox.paused
  const held = live.stream.hold()
  box.ready = false
  try {
    const sealed = await sealBox(context, live, box, { ...wish, memory: true })
    // What it would do from here on, it does again when it goes on from the seal.
    if (box.runtime.capabilities.pause) await box.sandbox.pause()
    const snapshot = await keep(sealedOf(live, box, sealed))
    // Written first: from here on it is in the snapshot, whatever becomes of the sandbox.
    const saved = { status: 'paused', reason: null, snapshot_id: snapshot } as const
    await save(context, live, { ...saved, sandbox_id: null })
    await letGo(context, live, box, saved)
  } catch (error) {
    if (live.box === box && !box.over) {
      if (!wasPaused && box.sandbox.paused) await box.sandbox.resume()
      held.goOn()
      box.ready = live.row.status === 'running'
    }
    throw error
  }
}

const letGo = async (
  context: Context,
  live: LiveInstance,
  box: Box,
  saved: { readonly status: 'paused'; readonly snapshot_id: string },
): Promise<void> => {
  live.stream.disconnect()
  await loseBox(context, live, box, { status: 'paused' }, saved)
  await box.runtime.layers.remove(live.row.layer).catch((error: unknown) => {
    context.log.warn({ err: error, instance: live.id }, 'what a snapshot has is on the disk until it is resumed')
  })
  armDeadline(context, live)
  tell(context, live, 'paused')
}
