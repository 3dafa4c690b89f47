import { BrambleError } from '@bramble/protocol'
import { assertWithinQuota, type Claim, createAccounts } from './accounts.ts'
import type { EngineLimits } from './engine.ts'
import { createFairQueue, type Queued } from './fair-queue.ts'
import type { Load } from './load.ts'
import type { Clock } from './options.ts'

/** A place to run, held until `release`. */
export interface Place {
  release(): void
}

/** A place to come. `granted` resolves with `undefined` after `leave`, and rejects with `shutting_down`. */
export interface Waiting {
  readonly granted: Promise<Place | undefined>
  /** It was a quota that kept it from entering at once. */
  readonly overQuota: boolean
  leave(): void
}

/** Decides who runs, within the node's limits and each key's quota, fairly between tenants. */
export interface Admission {
  /** Throws `queue_full`, `quota_exceeded`, `unsupported` (more memory than the node has) and `shutting_down`. */
  enter(claim: Claim): Place | Waiting
  /** A place for what is there already: not asked for, only counted. */
  hold(claim: Claim): Place
  /** There may be room that was not there before. */
  wake(): void
  readonly running: number
  readonly queued: number
  readonly admittedMb: number
  /** Nobody enters any more; who waits is refused. */
  close(): void
}

export interface AdmissionDeps {
  readonly limits: Pick<
    EngineLimits,
    'maxRunning' | 'maxRunningInstances' | 'maxQueued' | 'maxQueuedOverQuota' | 'maxMemoryMb' | 'maxEnding'
  >
  readonly load: Load
  readonly clock: Clock
}

/** The share of the queue that one tenant may hold. */
const TENANT_SHARE = 0.75
const RETRY_AFTER_MIN_MS = 100
const RETRY_AFTER_MAX_MS = 60_000
/** How much one duration moves the mean. */
const DURATION_WEIGHT = 0.1

interface Entry extends Queued {
  readonly claim: Claim
  readonly grant: (place: Place | undefined) => void
  readonly refuse: (error: BrambleError) => void
}

export const isWaiting = (entered: Place | Waiting): entered is Waiting => 'granted' in entered

export const createAdmission = ({ limits, load, clock }: AdmissionDeps): Admission => {
  const accounts = createAccounts()
  const queue = createFairQueue<Entry>()
  let running = 0
  let instances = 0
  let instancesQueued = 0
  let admittedMb = 0
  let closed = false
  let meanDurationMs = 1000

  const roomForOne = ({ lasting }: Claim): boolean =>
    (lasting ? instances < limits.maxRunningInstances : running < limits.maxRunning) && load.ending < limits.maxEnding
  // Pooled sandboxes are not counted: they make room when they are in the way.
  const roomFor = (claim: Claim): boolean => admittedMb + load.endingMb + claim.memoryMb <= limits.maxMemoryMb

  const admit = (claim: Claim): Place => {
    if (claim.lasting) instances++
    else running++
    admittedMb += claim.memoryMb
    accounts.charge(claim)
    const sinceMs = clock.monotonicMs()
    let held = true
    return {
      release() {
        if (!held) return
        held = false
        if (claim.lasting) instances--
        else {
          running--
          meanDurationMs += (clock.monotonicMs() - sinceMs - meanDurationMs) * DURATION_WEIGHT
        }
        admittedMb -= claim.memoryMb
        accounts.refund(claim)
        wake()
      },
    }
  }

  const wake = (): void => {
    while (queue.size > 0 && (running < limits.maxRunning || instancesQueued > 0)) {
      const entry = queue.take((candidate) => {
        if (!roomForOne(candidate.claim) || !accounts.allows(candidate.claim)) return 'skip'
        return roomFor(candidate.claim) ? 'take' : 'tooLarge'
      })
      if (!entry) return
      if (entry.claim.lasting) instancesQueued--
      entry.grant(admit(entry.claim))
    }
  }

  /** When a place may be free for who is last in a line of `ahead`. */
  const retryAfterMs = (ahead: number): number => {
    const ms = Math.ceil((meanDurationMs * (ahead + 1)) / limits.maxRunning)
    return Math.min(RETRY_AFTER_MAX_MS, Math.max(RETRY_AFTER_MIN_MS, ms))
  }

  const assertMayWait = (claim: Claim, overQuota: boolean): void => {
    const ofTenant = queue.sizeOf(claim.tenant)
    if (overQuota && ofTenant >= limits.maxQueuedOverQuota)
      throw new BrambleError('quota_exceeded', {
        detail: `the quota of the key is in use, and ${ofTenant} executions wait for it already`,
        retryAfterMs: Math.min(RETRY_AFTER_MAX_MS, Math.max(RETRY_AFTER_MIN_MS, Math.ceil(meanDurationMs))),
      })
    if (queue.size >= limits.maxQueued)
      throw new BrambleError('queue_full', {
        detail: `${queue.size} executions wait for a place`,
        retryAfterMs: retryAfterMs(queue.size),
      })
    if (ofTenant >= Math.ceil(limits.maxQueued * TENANT_SHARE))
      throw new BrambleError('queue_full', {
        detail: `${ofTenant} executions of this tenant wait for a place`,
        retryAfterMs: retryAfterMs(ofTenant),
      })
  }

  return {
    enter(claim) {
      if (closed) throw new BrambleError('shutting_down', { detail: 'the engine is closing' })
      assertWithinQuota(claim)
      if (claim.memoryMb > limits.maxMemoryMb)
        throw new BrambleError('unsupported', {
          detail: `it asks for ${claim.memoryMb} MiB of memory, the node has at most ${limits.maxMemoryMb} MiB to give`,
        })
      const overQuota = !accounts.allows(claim)
      if (queue.size === 0 && !overQuota && roomForOne(claim) && roomFor(claim)) return admit(claim)
      assertMayWait(claim, overQuota)
      const { promise, resolve, reject } = Promise.withResolvers<Place | undefined>()
      // An instance may wait long: executions of the same key do not wait behind it.
      const lane = claim.lasting ? `${claim.keyId} instances` : claim.keyId
      const entry: Entry = { tenant: claim.tenant, lane, claim, grant: resolve, refuse: reject, passed: 0 }
      queue.add(entry)
      if (claim.lasting) instancesQueued++
      // Who waits may wait for a quota of its own; the newcomer need not.
      wake()
      return {
        granted: promise,
        overQuota,
        leave() {
          if (queue.remove(entry)) {
            if (claim.lasting) instancesQueued--
            resolve(undefined)
          }
          wake()
        },
      }
    },
    hold: admit,
    wake,
    get running() {
      return running
    },
    get queued() {
      return queue.size
    },
    get admittedMb() {
      return admittedMb
    },
    close() {
      closed = true
      for (const entry of queue.clear())
        entry.refuse(new BrambleError('shutting_down', { detail: 'the engine closed before the execution began' }))
    },
  }
}
