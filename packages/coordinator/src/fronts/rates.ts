import { BrambleError } from '@bramble/protocol'
import type { FrontLimits } from './limits.ts'

/** Token buckets by name, as many as are remembered: the one that was used least lately is forgotten first. */
export interface Rates {
  /** Takes `amount`, or throws `rate_limited`. */
  take(name: string, amount?: number): void
  /** Throws `rate_limited` where nothing is left, and takes nothing. */
  check(name: string): void
  /** How long until `amount` is there again; it is taken all the same. */
  owe(name: string, amount: number): number
}

export interface FrontRates {
  /** Wrong keys and signatures, by client address. */
  readonly failures: Rates
  /** By client address, and of all under one name. */
  readonly registrations: Rates
  readonly allRegistrations: Rates
  /** By node. */
  readonly nodeRequests: Rates
  readonly nodeUploads: Rates
}

export interface RatesOptions {
  /** Of what, for people: `signed requests of this node`. */
  readonly what: string
  readonly perSecond: number
  /** Default: what a second brings. */
  readonly burst?: number
  readonly maxNames: number
  readonly now?: () => number
}

interface Bucket {
  tokens: number
  at: number
}

export const createRates = (options: RatesOptions): Rates => {
  const { what, perSecond, maxNames, now = performance.now.bind(performance) } = options
  const burst = options.burst ?? Math.max(1, perSecond)
  const buckets = new Map<string, Bucket>()

  const bucketOf = (name: string): Bucket => {
    const time = now()
    const known = buckets.get(name)
    if (known) {
      known.tokens = Math.min(burst, known.tokens + ((time - known.at) / 1000) * perSecond)
      known.at = time
      // Moved to the end: the map's first is the one to forget.
      buckets.delete(name)
    }
    const bucket = known ?? { tokens: burst, at: time }
    buckets.set(name, bucket)
    if (buckets.size > maxNames)
      for (const oldest of buckets.keys()) {
        buckets.delete(oldest)
        break
      }
    return bucket
  }
  const waitFor = ({ tokens }: Bucket, amount: number): number =>
    tokens >= amount ? 0 : Math.ceil(((amount - tokens) / perSecond) * 1000)
  const require = (bucket: Bucket, amount: number): void => {
    // What is more than a burst is taken once the bucket is full, and owed.
    const waitMs = waitFor(bucket, Math.min(amount, burst))
    if (waitMs > 0)
      throw new BrambleError('rate_limited', { detail: `${what}: ${perSecond} a second`, retryAfterMs: waitMs })
  }

  return {
    take: (name, amount = 1) => {
      const bucket = bucketOf(name)
      require(bucket, amount)
      bucket.tokens -= amount
    },
    check: (name) => require(bucketOf(name), 1),
    owe: (name, amount) => {
      const bucket = bucketOf(name)
      bucket.tokens -= amount
      return waitFor(bucket, 0)
    },
  }
}

/** The rates of one front. */
export const openRates = (limits: FrontLimits): FrontRates => {
  const { maxTrackedRates: maxNames } = limits
  return {
    failures: createRates({
      ...{ what: 'requests of this address that failed', maxNames },
      ...{ perSecond: limits.failuresPerSecond, burst: limits.failuresBurst },
    }),
    registrations: createRates({
      ...{ what: 'registrations from this address', perSecond: limits.registrationsPerSecond, maxNames },
    }),
    allRegistrations: createRates({ what: 'registrations', perSecond: limits.allRegistrationsPerSecond, maxNames: 1 }),
    nodeRequests: createRates({
      ...{ what: 'requests of this node', perSecond: limits.nodeRequestsPerSecond, maxNames },
    }),
    nodeUploads: createRates({
      ...{ what: 'bytes of blobs of this node', perSecond: limits.nodeUploadBytesPerSecond, maxNames },
      burst: limits.maxNodeUploadBurstBytes,
    }),
  }
}
