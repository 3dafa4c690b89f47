import { BrambleError } from '@bramble/protocol'
import { isWaiting, type Place } from '../admission.ts'
import type { Context } from './context.ts'
import type { LiveInstance } from './live-instance.ts'

const RETRY_AFTER_MS = 5000

const counted = (context: Context, live: LiveInstance, place: Place): void => {
  const { memoryMb } = live.spec.resources
  context.load.boxesMb += memoryMb
  live.place = {
    release() {
      context.load.boxesMb -= memoryMb
      place.release()
    },
  }
}

/**
 * Takes the place that a running or paused instance holds. Waits for one up to `instanceWaitMs`, then rejects with
 * `quota_exceeded` or `queue_full`; an abort rejects with its reason.
 */
export const takePlace = async (context: Context, live: LiveInstance, signal: AbortSignal): Promise<void> => {
  signal.throwIfAborted()
  const entered = context.admission.enter(live.claim)
  if (!isWaiting(entered)) {
    counted(context, live, entered)
    context.makeRoom(0)
    return
  }
  const { instanceWaitMs } = context.limits
  const leave = (): void => entered.leave()
  const timer = setTimeout(leave, instanceWaitMs)
  signal.addEventListener('abort', leave)
  try {
    const place = await entered.granted
    if (place && !signal.aborted) {
      counted(context, live, place)
      context.makeRoom(0)
      return
    }
    place?.release()
    signal.throwIfAborted()
    throw new BrambleError(entered.overQuota ? 'quota_exceeded' : 'queue_full', {
      detail: `no place for the instance became free within ${instanceWaitMs} ms`,
      retryAfterMs: RETRY_AFTER_MS,
    })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', leave)
  }
}

/** The place of one that runs already. */
export const holdPlace = (context: Context, live: LiveInstance): void =>
  counted(context, live, context.admission.hold(live.claim))

/** Gives the place back; safe twice. */
export const leavePlace = (live: LiveInstance): void => {
  live.place?.release()
  live.place = undefined
}
