import type { ExecutionResult, ExecutionSpecInput } from '@bramble/protocol'

/** A piece of a run: output as text or bytes, then the result, always last. */
export type RunEvent =
  | { readonly type: 'stdout' | 'stderr'; readonly data: string | Uint8Array }
  | { readonly type: 'result'; readonly result: ExecutionResult }

/**
 * Runs one command somewhere and tells what it does. Aborting `signal` cancels the command; its result, which then says
 * `cancelled`, still comes, unless nobody can say it any more: then it throws the signal's reason.
 */
export type LiveRun = (spec: ExecutionSpecInput, signal: AbortSignal) => AsyncIterable<RunEvent>
