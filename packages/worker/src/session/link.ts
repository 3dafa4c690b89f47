import type { BrambleError, CoordinatorFrame, LeaseRef, NodeReport, Welcome, WorkerFrame } from '@bramble/protocol'
import type { Holdings, Item } from './holdings.ts'
import type { NetworkClock, Schedule, SessionOptions } from './session.ts'

/** What a connection needs of its session. */
export interface LinkContext {
  readonly options: SessionOptions
  readonly holdings: Holdings
  readonly clock: NetworkClock
  readonly schedule: Schedule
  /** As it was reported last. */
  report(): NodeReport
  /** Takes nothing new. */
  draining(): boolean
  /** It is open from here on. */
  opened(link: Link, network: string, welcome: Welcome): void
  took(frame: CoordinatorFrame, refused: readonly { lease: LeaseRef; message: string }[]): void
}

/** An open connection, by which what a worker has to say reaches its coordinator. */
export interface Link {
  results(items: readonly Item[]): void
  started(refs: readonly LeaseRef[]): void
  report(report: NodeReport): void
  drain(): void
  reply(reply: Omit<Extract<WorkerFrame, { type: 'reply' }>, 'type'>): void
  /** Sends live output, and resolves when there is room for more. Absent: nobody takes any. */
  output?(frame: Extract<WorkerFrame, { type: 'output' }>): Promise<void>
}

/** Why a connection ended, and when the next one is to be made. */
export interface LinkEnd {
  readonly error: BrambleError
  /** `never`: the session is over. Absent: by the number of failures before. */
  readonly retryAfterMs?: number | 'never'
}

/** Resolves when the connection has ended, however it does. */
export type Connect = (context: LinkContext, signal: AbortSignal) => Promise<LinkEnd>
