import { type InstanceSpec, instanceSpecSchema, parse, type SandboxId } from '@bramble/protocol'
import type { InstanceRow } from '../store/instance-tables.ts'
import { type Context, inBackground, save, tell } from './context.ts'
import { armDeadline } from './idle.ts'
import { finishRemoval, isSaved, takeOver } from './lifecycle.ts'
import type { LiveInstance } from './live-instance.ts'
import { holdPlace } from './place.ts'

/** Sandboxes that are taken over at once. */
const ATTACHING_AT_ONCE = 8

const shouldLive = ({ doomed, made, status }: InstanceRow): boolean =>
  doomed === 0 && made === 1 && (status === 'running' || status === 'paused')

/** The sandboxes that are to go on: all others of an earlier node are reaped. */
export const sandboxesToKeep = (rows: readonly InstanceRow[]): Set<SandboxId> =>
  new Set(rows.filter(shouldLive).flatMap(({ sandbox_id }) => (sandbox_id === null ? [] : [sandbox_id as SandboxId])))

export const specOf = (row: InstanceRow): InstanceSpec => parse(instanceSpecSchema, JSON.parse(row.spec))

/**
 * Brings the instances of an earlier node and what is on this host together again, after a reap: what was begun is finished
 * or undone, what ran and is gone is `stopped`, what runs is taken over, in the background.
 */
export const recover = async (context: Context, lives: readonly LiveInstance[]): Promise<void> => {
  const alive = new Set<string>(await context.runtime.list())
  const attaching: LiveInstance[] = []
  const undone: LiveInstance[] = []
  for (const live of lives) {
    const { row } = live
    if (row.doomed || !row.made) undone.push(live)
    else if (isSaved(live)) continue
    else if (shouldLive(row)) {
      if (row.sandbox_id !== null && alive.has(row.sandbox_id)) {
        holdPlace(context, live)
        if (row.status === 'running') attaching.push(live)
      } else await gone(context, live, 'its sandbox was gone when the node started again')
    } else if (row.status !== 'stopped')
      await gone(context, live, row.status === 'starting' ? 'the node stopped while it was starting' : null)
  }
  for (const live of undone) await undo(context, live)
  await removeOrphans(context)
  // First in line: whatever else is due to one of them finds it taken over.
  attachAll(context, attaching)
  for (const live of context.byId.values()) armDeadline(context, live)
}

/** What was being deleted, or never was: nobody was told of it. */
const undo = async (context: Context, live: LiveInstance): Promise<void> => {
  live.row.doomed = 1
  await finishRemoval(context, live).catch((error: unknown) => {
    context.log.error({ err: error, instance: live.id }, 'a deleted instance could not be removed yet')
  })
}

const gone = async (context: Context, live: LiveInstance, reason: string | null): Promise<void> => {
  await save(context, live, { status: 'stopped', reason, sandbox_id: null, charged_at: null })
  if (reason !== null) context.log.warn({ instance: live.id, reason }, 'an instance did not outlive its node')
}

const removeOrphans = async (context: Context): Promise<void> => {
  const known = new Set<string>()
  for (const { row } of context.byId.values()) known.add(row.layer)
  for (const runtime of context.runtimes)
    for (const layer of await runtime.layers.list()) {
      if (known.has(layer)) continue
      context.log.warn({ layer }, 'a layer of no instance was removed')
      await runtime.layers.remove(layer).catch((error: unknown) => {
        context.log.error({ err: error, layer }, 'a layer of no instance could not be removed')
      })
    }
}

/** Whoever uses one of them waits for its turn. */
const attachAll = (context: Context, lives: readonly LiveInstance[]): void => {
  const running = new Set<Promise<void>>()
  for (const live of lives) {
    const turn = Promise.withResolvers<void>()
    inBackground(context, live, async () => {
      while (running.size >= ATTACHING_AT_ONCE) await Promise.race(running)
      running.add(turn.promise)
      try {
        await takeOver(context, live)
        tell(context, live, 'attached')
        armDeadline(context, live)
      } finally {
        running.delete(turn.promise)
        turn.resolve()
      }
    })
  }
}
