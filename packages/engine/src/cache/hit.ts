import type { ExecutionResult } from '@bramble/protocol'
import { jsonOf, type Own } from './prepared.ts'
import type { CachedResult } from './result-cache.ts'

/** What tells a result that the cache answered from the one in the cache. */
export type HitReference = Own & Pick<ExecutionResult, 'inputHash' | 'resultHash'>

/** A longer one is not written for every hit: the record says which result of the cache it was. */
const MAX_OWN_CHARS = 8192

/** How the result of a hit is written into its record. */
export const hitText = (result: HitReference, kept: CachedResult): string => {
  if (kept.jsonTail.length <= MAX_OWN_CHARS) return jsonOf(result, kept.jsonTail)
  const { id, timings, startedAt, finishedAt, inputHash, resultHash } = result
  const hit: HitReference = { id, timings, startedAt, finishedAt, inputHash, resultHash }
  return JSON.stringify({ hit })
}

/** The reference in the result of a record, where it has one instead of a result. */
export const hitIn = (result: object): HitReference | undefined =>
  'hit' in result ? (result.hit as HitReference) : undefined

/** The result of a hit, while the cache has it. */
export const resultOfHit = (
  { id, timings, startedAt, finishedAt, resultHash }: HitReference,
  kept: CachedResult | undefined,
): ExecutionResult | undefined =>
  kept?.result.resultHash === resultHash ? { ...kept.result, id, timings, startedAt, finishedAt } : undefined
