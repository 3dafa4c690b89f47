import type { Context } from './context.ts'
import { type LiveInstance, MAIN } from './live-instance.ts'

/** Its own `command` is what is used, a server say, and no use of it. */
export const isUsed = ({ leases, stream: { commands } }: LiveInstance): boolean =>
  leases > 0 || commands.size > (commands.has(MAIN) ? 1 : 0)

/** What happens to it for want of use, in the state it is in. */
export const idleActionOf = ({ row, spec }: LiveInstance): 'pause' | 'stop' | 'delete' | undefined => {
  const { idleTtlMs, idleAction } = spec
  if (idleTtlMs === undefined || row.doomed) return undefined
  if (row.status === 'running') return idleAction
  return row.status === 'paused' && idleAction !== 'pause' ? idleAction : undefined
}

/** When something is due that nobody asks for: undefined while it is used, or never. */
const nextDeadlineMs = (live: LiveInstance): number | undefined => {
  const { expires_at, doomed } = live.row
  if (doomed) return undefined
  const expiresMs = expires_at === null ? Number.POSITIVE_INFINITY : Date.parse(expires_at)
  const idle = idleActionOf(live) !== undefined && !isUsed(live)
  const idleMs = idle ? live.lastUsedMs + (live.spec.idleTtlMs ?? 0) : Number.POSITIVE_INFINITY
  const nextMs = Math.min(expiresMs, idleMs)
  return nextMs === Number.POSITIVE_INFINITY ? undefined : nextMs
}

export const armDeadline = (context: Context, live: LiveInstance): void => {
  const atMs = nextDeadlineMs(live)
  if (atMs !== undefined) context.deadlines.set(live, atMs)
}

/** A lease was given back, or a command ended. */
export const touch = (context: Context, live: LiveInstance): void => {
  live.lastUsedMs = context.clock.now()
  if (live.spec.idleTtlMs !== undefined) armDeadline(context, live)
}
