import type { CoordinatorFrame, JobEvent, Problem, WorkerFrame } from '@bramble/protocol'
import type { OpenSession } from '../network/network.ts'
import type { Method } from './calls.ts'

/** What a coordinator asks of the one that writes. `id` names a call of the asker; many are under way at once. */
export type Asked =
  | { readonly t: 'call'; readonly id: number; readonly method: Method; readonly args: readonly unknown[] }
  /** Its items come as `credit` allows: so many at first, then as many more. */
  | { readonly t: 'events'; readonly id: number; readonly args: readonly unknown[]; readonly credit: number }
  | { readonly t: 'credit'; readonly id: number; readonly more: number }
  /** Nobody waits for that call any more. */
  | { readonly t: 'abort'; readonly id: number }
  /** The answer is the session's `welcome`. */
  | { readonly t: 'open'; readonly id: number; readonly session: number; readonly command: OpenSession }
  | { readonly t: 'frame'; readonly id: number; readonly session: number; readonly frame: WorkerFrame }
  | { readonly t: 'close'; readonly session: number; readonly broken?: boolean }

export type Answered =
  /** The call ended: well, or not. */
  | { readonly t: 'value'; readonly id: number; readonly value?: unknown }
  | { readonly t: 'error'; readonly id: number; readonly error: Problem }
  | { readonly t: 'item'; readonly id: number; readonly event: JobEvent }
  | { readonly t: 'deliver'; readonly session: number; readonly frame: CoordinatorFrame }
