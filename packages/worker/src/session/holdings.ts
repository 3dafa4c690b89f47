import type { Identity } from '@bramble/identity'
import {
  BrambleError,
  type Commit,
  type Failure,
  type Lease,
  type LeaseRef,
  LIMITS,
  type Problem,
  type Receipt,
  toBrambleError,
} from '@bramble/protocol'
import type { ExecuteLeaseContext, Outcome, SessionOptions } from './session.ts'

/** Beside the items, in a frame of results. */
const FRAME_SPARE_BYTES = 256
const MAX_ITEM_BYTES = LIMITS.maxFrameBytes.value - FRAME_SPARE_BYTES
const MAX_MESSAGE_CHARS = 1024

/** One lease of this worker, until its end is acknowledged. */
export interface Held {
  readonly lease: Lease
  readonly abort: AbortController
  phase: 'taken' | 'running' | 'ended'
  /** The coordinator was told that it runs, on the connection that is open now. */
  startedTold: boolean
  progress: number | undefined
  /** Live output that was taken for sending. */
  outputBytes: number
  /** What came of it, until it is signed. */
  outcome: Outcome | undefined
  /** As it is sent. */
  item: Item | undefined
  /** On the connection that is open now. */
  sent: boolean
}

/** JSON text of a commit or a failure. */
export interface Item {
  readonly kind: 'commit' | 'failed'
  readonly text: string
  readonly bytes: number
}

export interface HoldingsDeps extends Pick<SessionOptions, 'execute' | 'onEvent'> {
  readonly identity: Identity
  /** An execution ended, or began: there is something to tell. */
  readonly changed: (what: 'ended' | 'started') => void
  readonly output: (held: Held, stream: 'stdout' | 'stderr', data: Uint8Array) => Promise<boolean>
}

/** What a worker holds, whichever connection it has at the moment. */
export interface Holdings {
  /** Runs it, unless it is here already. The same execution under a newer token replaces the older one. */
  take(lease: Lease): void
  /** Stops what runs; what has ended is sent all the same. */
  stop(ref: LeaseRef, reason: string): void
  /** Stops all that runs and is not among them. */
  keepOnly(refs: readonly LeaseRef[]): void
  refs(): LeaseRef[]
  /** The same with how far they are. */
  beat(): (LeaseRef & { progress?: number })[]
  /** What has begun, has not ended, and was not told of on this connection; it counts as told from here on. */
  started(): LeaseRef[]
  /** What has ended and was not sent on this connection, signed at once; it counts as sent from here on. */
  results(network: string): Item[]
  /** A new connection: nothing was told or sent on it. */
  forgetSent(): void
  /** It was not taken, and may be later. */
  sendAgain(ref: LeaseRef): void
  acknowledge(ref: LeaseRef, error?: Problem): void
  /** Ends what runs with this error. */
  fail(error: BrambleError): void
  readonly size: number
  readonly running: number
  /** Resolves when what runs has ended (`running`), or nothing is held any more (`held`). */
  none(what: 'running' | 'held'): Promise<void>
}

const refOf = ({ execution, token }: LeaseRef): LeaseRef => ({ execution, token })

const itemOf = (kind: Item['kind'], value: Commit | Failure): Item => {
  const text = JSON.stringify(value)
  return { kind, text, bytes: Buffer.byteLength(text) }
}

const failureOf = (lease: LeaseRef, error: BrambleError): Item =>
  itemOf('failed', { ...refOf(lease), code: error.code, message: error.detail.slice(0, MAX_MESSAGE_CHARS) })

const whole = (value: number): number => Math.max(0, Math.round(value))

export const createHoldings = (deps: HoldingsDeps): Holdings => {
  const { execute, identity, changed, onEvent = () => {} } = deps
  const all = new Map<string, Held>()
  const waiters = new Set<() => void>()
  let running = 0

  const settle = (): void => {
    for (const waiter of waiters) waiter()
  }
  const find = ({ execution, token }: LeaseRef): Held | undefined => {
    const held = all.get(execution)
    return held?.lease.token === token ? held : undefined
  }
  const end = (held: Held): void => {
    if (held.phase !== 'ended') running--
    held.phase = 'ended'
  }
  const drop = (held: Held): void => {
    end(held)
    if (all.get(held.lease.execution) === held) all.delete(held.lease.execution)
    settle()
  }
  const ended = (held: Held): void => {
    end(held)
    changed('ended')
    settle()
  }

  const failed = (held: Held, error: BrambleError): void => {
    if (held.phase === 'ended') return
    held.item = failureOf(held.lease, error)
    onEvent({ type: 'failed', lease: held.lease, error })
    ended(held)
  }

  const stopOne = (held: Held, reason: string): void => {
    if (held.phase === 'ended') return
    drop(held)
    held.abort.abort(new BrambleError('lease_lost', { detail: reason }))
    onEvent({ type: 'stopped', lease: held.lease, reason })
  }

  const run = async (held: Held): Promise<void> => {
    const { lease, abort } = held
    const context: ExecuteLeaseContext = {
      signal: abort.signal,
      output: (stream, data) => deps.output(held, stream, data),
      started: () => {
        if (held.phase !== 'taken') return
        held.phase = 'running'
        changed('started')
      },
      progress: (progress) => {
        held.progress = progress
      },
    }
    try {
      const outcome = await execute(lease, context)
      if (held.phase === 'ended') return
      held.outcome = outcome
      onEvent({ type: 'finished', lease, outcome })
      ended(held)
    } catch (error) {
      failed(held, toBrambleError(error))
    }
  }

  /** One signature for all that ended together. */
  const sign = (batch: readonly Held[], network: string): void => {
    const receipts = batch.map(({ lease, outcome }): Receipt => {
      if (outcome === undefined) throw new Error('what is signed has an outcome')
      const { inputHash, resultHash, cpuMs, peakMemoryBytes, startedAtMs, finishedAtMs } = outcome
      return {
        network,
        job: lease.job,
        ...refOf(lease),
        node: identity.id,
        inputHash: `0x${inputHash}`,
        resultHash: `0x${resultHash}`,
        cpuMs: whole(cpuMs),
        peakMemoryBytes: whole(peakMemoryBytes),
        startedAtMs: whole(startedAtMs),
        finishedAtMs: whole(finishedAtMs),
      }
    })
    for (const [at, receipt] of identity.signReceipts(receipts).entries()) {
      const held = batch[at]
      if (held?.outcome === undefined) continue
      const item = itemOf('commit', { ...refOf(held.lease), receipt, result: held.outcome.result })
      held.outcome = undefined
      held.item = item.bytes <= MAX_ITEM_BYTES ? item : failureOf(held.lease, tooLarge(item.bytes))
    }
  }

  return {
    take(lease) {
      const old = all.get(lease.execution)
      if (old !== undefined && old.lease.token >= lease.token) return
      if (old !== undefined) {
        stopOne(old, `the execution was leased again (token ${lease.token})`)
        all.delete(lease.execution)
      }
      const held: Held = {
        ...{ lease, abort: new AbortController(), phase: 'taken', startedTold: false, progress: undefined },
        ...{ outputBytes: 0, outcome: undefined, item: undefined, sent: false },
      }
      all.set(lease.execution, held)
      running++
      onEvent({ type: 'leased', lease })
      if (all.size <= LIMITS.maxLeases.value) void run(held)
      else failed(held, new BrambleError('queue_full', { detail: `the worker holds ${LIMITS.maxLeases.value} leases` }))
    },
    stop(ref, reason) {
      const held = find(ref)
      if (held !== undefined) stopOne(held, reason)
    },
    keepOnly(refs) {
      const kept = new Set(refs.map(({ execution, token }) => `${execution}/${token}`))
      for (const held of [...all.values()])
        if (!kept.has(`${held.lease.execution}/${held.lease.token}`))
          stopOne(held, 'the coordinator does not keep it at the new connection')
    },
    refs: () => Array.from(all.values(), ({ lease }) => refOf(lease)),
    beat: () =>
      Array.from(all.values(), ({ lease, progress }) =>
        progress === undefined ? refOf(lease) : { ...refOf(lease), progress },
      ),
    started() {
      const refs: LeaseRef[] = []
      for (const held of all.values()) {
        if (held.phase !== 'running' || held.startedTold) continue
        held.startedTold = true
        refs.push(refOf(held.lease))
      }
      return refs
    },
    results(network) {
      const ready = Array.from(all.values()).filter((held) => held.phase === 'ended' && !held.sent)
      const unsigned = ready.filter((held) => held.outcome !== undefined)
      if (unsigned.length > 0) sign(unsigned, network)
      return ready.flatMap((held) => {
        held.sent = true
        return held.item ?? []
      })
    },
    forgetSent() {
      for (const held of all.values()) {
        held.sent = false
        held.startedTold = false
      }
    },
    sendAgain(ref) {
      const held = find(ref)
      if (held !== undefined) held.sent = false
    },
    acknowledge(ref, error) {
      const held = find(ref)
      if (held?.phase !== 'ended') return
      drop(held)
      onEvent({ type: 'acknowledged', lease: refOf(ref), ...(error && { error }) })
    },
    fail(error) {
      for (const held of [...all.values()]) {
        failed(held, error)
        held.abort.abort(error)
      }
    },
    get size() {
      return all.size
    },
    get running() {
      return running
    },
    none: (what) =>
      new Promise((resolve) => {
        const look = (): void => {
          if ((what === 'running' ? running : all.size) > 0) return
          waiters.delete(look)
          resolve()
        }
        waiters.add(look)
        look()
      }),
  }
}

const tooLarge = (bytes: number): BrambleError =>
  new BrambleError('result_refused', {
    detail: `the result is ${bytes} bytes beside its blobs; a message holds ${LIMITS.maxFrameBytes.value}`,
  })
