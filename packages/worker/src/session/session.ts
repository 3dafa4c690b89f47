import type { Identity } from '@bramble/identity'
import type {
  BrambleError,
  Challenge,
  JobResult,
  Lease,
  LeaseRef,
  NodeId,
  NodeReport,
  Problem,
  Welcome,
} from '@bramble/protocol'

/**
 * A worker's membership of a network, as long as it lasts: connections come and go, the session stays.
 *
 * Lifecycle. It connects, proves who it is, says what it holds, and is told what of that to go on with. Each lease runs by
 * `execute` at once; what comes of it is sent until it is acknowledged, over as many connections as it takes. A connection that
 * breaks is made again after a random part of 0.5 s, 1 s, 2 s, … up to 60 s. `drain` takes nothing new; `close` drains, waits for
 * what runs, tells of the rest that it failed (`shutting_down`), and leaves.
 *
 * A lease that is cancelled, or not among those that the coordinator keeps at a new connection, is aborted and never heard of
 * again. One whose connection is away runs on: the coordinator decides.
 */
export interface Session extends AsyncDisposable {
  readonly node: NodeId
  /** The first welcome. Rejects where the session ended before. */
  readonly ready: Promise<Welcome>
  /** Settles when the session has ended for good: with why, where it was not `close` that ended it. */
  readonly ended: Promise<BrambleError | undefined>
  readonly state: 'connecting' | 'open' | 'closed'
  /** What it holds: what runs, and what has ended and is not acknowledged. */
  held(): readonly LeaseRef[]
  /** What the node has or can do has changed. */
  report(report: NodeReport): void
  /** Resolves when nothing is held any more. */
  drain(): Promise<void>
  close(options?: CloseOptions): Promise<void>
}

export interface CloseOptions {
  /** How long what runs may go on. Default 0. */
  readonly graceMs?: number
  /** How long the last results may take to be acknowledged. Default 3 s. */
  readonly lastWordsMs?: number
}

/**
 * Runs one lease. Rejects where the node could not run it: the code and message of the error are what the coordinator hears.
 * Once `signal` is aborted nobody waits for it, and whatever it gives is dropped.
 */
export type Execute = (lease: Lease, context: ExecuteLeaseContext) => Promise<Outcome>

export interface ExecuteLeaseContext {
  readonly signal: AbortSignal
  /**
   * Output as it comes, for who watches the job. Sent while the execution runs, up to `maxJobLogBytes`; resolves when there is room
   * for more, `false` when nothing more of it is wanted.
   */
  output(stream: 'stdout' | 'stderr', data: Uint8Array): Promise<boolean>
  /** It has begun to run: what the coordinator shows. */
  started(): void
  /** From 0 to 1; told with the next heartbeat. */
  progress(progress: number): void
}

/** What came of an execution, for its receipt. */
export interface Outcome {
  readonly result: JobResult
  /** SHA-256 in hex, as the engine has them. */
  readonly inputHash: string
  readonly resultHash: string
  readonly cpuMs: number
  readonly peakMemoryBytes: number
  readonly startedAtMs: number
  readonly finishedAtMs: number
}

/** Answers what a coordinator asks of the node beside executions. */
export type RequestHandler = (params: unknown, signal: AbortSignal) => Promise<unknown>

export interface SessionOptions {
  /** Of the coordinator, or of what stands before several: `https://…`. */
  readonly url: string
  readonly identity: Identity
  /** Makes a key for one connection. */
  readonly ephemeral: () => Identity
  readonly report: NodeReport
  readonly execute: Execute
  readonly requests?: Readonly<Record<string, RequestHandler>>
  /** Default `stream`. `poll`: requests only, for networks that let no WebSocket pass; without live output. */
  readonly transport?: 'stream' | 'poll'
  /** Refuses a coordinator that is not of the network that this node joined. */
  readonly pin?: NetworkPin
  readonly clock?: NetworkClock
  /** Called where the coordinator does not know the node. */
  readonly register?: (signal: AbortSignal) => Promise<void>
  readonly onEvent?: (event: SessionEvent) => void
  readonly schedule?: Schedule
  /** Calls once what happens now is over; what is to be sent until then goes together. */
  readonly soon?: (run: () => void) => void
  /** In [0, 1). */
  readonly random?: () => number
}

/** Calls `run` after `ms` milliseconds, unless the function it gives is called before. */
export type Schedule = (ms: number, run: () => void) => () => void

export interface NetworkPin {
  /** Throws `signature_invalid` for another network than the one that was met first. */
  check(met: Pick<Challenge, 'network' | 'publicKey'>): void
}

/** The time of the network, as far as this node knows it. */
export interface NetworkClock {
  now(): number
  correct(serverTimeMs: number): void
}

export type SessionEvent =
  | { readonly type: 'open'; readonly welcome: Welcome; readonly held: number }
  | { readonly type: 'away'; readonly error: BrambleError; readonly retryInMs: number }
  | { readonly type: 'leased'; readonly lease: Lease }
  | { readonly type: 'stopped'; readonly lease: Lease; readonly reason: string }
  | { readonly type: 'finished'; readonly lease: Lease; readonly outcome: Outcome }
  | { readonly type: 'failed'; readonly lease: Lease; readonly error: BrambleError }
  | { readonly type: 'acknowledged'; readonly lease: LeaseRef; readonly error?: Problem }
