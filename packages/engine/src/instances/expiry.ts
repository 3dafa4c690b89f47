import { type Context, inBackground } from './context.ts'
import { armDeadline, idleActionOf, isUsed } from './idle.ts'
import { finishRemoval, pauseIn, removeIn, stopIn } from './lifecycle.ts'
import type { LiveInstance } from './live-instance.ts'

const RETRY_MS = 5000

const settle = async (context: Context, live: LiveInstance): Promise<void> => {
  if (live.row.doomed) return await finishRemoval(context, live)
  const nowMs = context.clock.now()
  const { expires_at } = live.row
  if (expires_at !== null && Date.parse(expires_at) <= nowMs) return await removeIn(context, live)
  const action = isUsed(live) ? undefined : idleActionOf(live)
  if (action === undefined || live.lastUsedMs + (live.spec.idleTtlMs ?? 0) > nowMs) return
  switch (action) {
    case 'pause':
      return await pauseIn(context, live)
    case 'stop':
      return await stopIn(context, live, 'nobody used it for `idleTtlMs`')
    case 'delete':
      return await removeIn(context, live)
    default:
      action satisfies never
  }
}

/** Does what is due, and sets the next deadline. */
export const onDeadline = (context: Context, live: LiveInstance): void =>
  inBackground(context, live, async () => {
    if (context.closing.signal.aborted || !context.byId.has(live.id)) return
    try {
      await settle(context, live)
    } catch (error) {
      if (!live.row.doomed) context.deadlines.set(live, context.clock.now() + RETRY_MS)
      throw error
    }
    if (context.byId.has(live.id)) armDeadline(context, live)
  })
