import type { Context } from './context.ts'
import { stopIn } from './lifecycle.ts'
import type { LiveInstance } from './live-instance.ts'

/** Each may take `stopGraceMs` to end its processes. */
const STOPPING_AT_ONCE = 16

/** Stops all that run or are paused, of every tenant. Resolves with how many those were. */
export const stopAll = async (context: Context): Promise<number> => {
  const lives = [...context.byId.values()].values()
  let stopped = 0
  const stopOne = async (live: LiveInstance): Promise<void> => {
    const { doomed, status } = live.row
    if (doomed || (status !== 'running' && status !== 'paused')) return
    await stopIn(context, live)
    stopped++
  }
  // One iterator for all of them: each takes the next.
  const worker = async (): Promise<void> => {
    for (const live of lives) await live.exclusive(() => stopOne(live))
  }
  await Promise.all(Array.from({ length: STOPPING_AT_ONCE }, worker))
  return stopped
}
