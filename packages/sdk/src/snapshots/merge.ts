import {
  BrambleError,
  type MergeConflict,
  type MergeRequestInput,
  type MergeResponse,
  mergeResponseSchema,
  type Snapshot,
} from '@bramble/protocol'
import type { CallOptions } from '../call.ts'
import type { Transport } from '../transport.ts'
import { refOf, type StateRef } from './state-ref.ts'
import { given, making } from './take.ts'

export interface MergeInput extends Omit<MergeRequestInput, 'branches' | 'base'>, CallOptions {
  /** At least one; the first is `ours`. */
  readonly branches: readonly StateRef[]
  /** What they began from. Default: found by their parents. */
  readonly base?: StateRef | undefined
}

/** A merge that made a snapshot; `conflicts` are those that the strategy settled. */
export type Merged = MergeResponse & { readonly snapshot: Snapshot }

/** There were conflicts, and the strategy is `fail`: nothing was made. */
export class MergeConflictError extends BrambleError {
  readonly conflicts: readonly MergeConflict[]
  /** The whole answer: how much would have merged. */
  readonly outcome: MergeResponse

  constructor(outcome: MergeResponse) {
    const { conflicts, totals } = outcome
    const named = conflicts.slice(0, 3).map(({ path, kind }) => `${path} (${kind})`)
    const more = totals.conflicts > named.length ? ` and ${totals.conflicts - named.length} more` : ''
    super('merge_conflict', { detail: `${named.join(', ')}${more}` })
    this.conflicts = conflicts
    this.outcome = outcome
  }
}

export interface Merge {
  /** The files of the branches as one snapshot. Throws a `MergeConflictError` where they do not agree and the strategy is `fail`. */
  (input: MergeInput): Promise<Merged>
  /** The same without throwing: where they do not agree, there is no `snapshot`. */
  (input: MergeInput & { readonly check: false }): Promise<MergeResponse>
}

export const mergeOf =
  (transport: Transport) =>
  async (input: MergeInput & { readonly check?: boolean }): Promise<Merged> => {
    const { branches, base, check = true, signal, requestTimeoutMs, ...rest } = input
    const body = { ...rest, branches: branches.map(refOf), ...(base !== undefined && { base: refOf(base) }) }
    const request = making('/api/v1/merge', body, given({ signal, requestTimeoutMs }))
    const outcome = await transport.json(request, mergeResponseSchema)
    if (outcome.snapshot === undefined && check) throw new MergeConflictError(outcome)
    return outcome as Merged
  }
