import type { NetworkClock } from './session.ts'

/** This host's clock, moved to where the network's is. */
export const networkClock = (now: () => number = Date.now): NetworkClock => {
  let offsetMs = 0
  return {
    now: () => now() + offsetMs,
    correct: (serverTimeMs) => {
      offsetMs = serverTimeMs - now()
    },
  }
}
