/** A token bucket: `perSecond` tokens flow in, at most a second's worth (and at least one) waits. */
export interface TokenBucket {
  take(): RateState
}

export interface RateState {
  readonly allowed: boolean
  readonly limit: number
  readonly remaining: number
  /** Until a token is there again: 0 while some are left. */
  readonly waitMs: number
}

export const tokenBucket = (perSecond: number, now: () => number = performance.now.bind(performance)): TokenBucket => {
  const capacity = Math.max(1, Math.ceil(perSecond))
  let tokens = capacity
  let at = now()
  return {
    take: () => {
      const time = now()
      tokens = Math.min(capacity, tokens + ((time - at) / 1000) * perSecond)
      at = time
      const allowed = tokens >= 1
      if (allowed) tokens -= 1
      const waitMs = tokens >= 1 ? 0 : Math.ceil(((1 - tokens) / perSecond) * 1000)
      return { allowed, limit: capacity, remaining: Math.floor(tokens), waitMs }
    },
  }
}

/** The headers of draft-ietf-httpapi-ratelimit-headers in their separate form, which clients know best. */
export const rateHeaders = (state: RateState): Record<string, string> => ({
  'ratelimit-limit': String(state.limit),
  'ratelimit-remaining': String(state.remaining),
  'ratelimit-reset': String(Math.ceil(state.waitMs / 1000)),
})
