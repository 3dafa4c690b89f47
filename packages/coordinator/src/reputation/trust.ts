import type { ReputationEntry, Trust } from '@bramble/protocol'
import type { TrustConfig, VerificationConfig } from '../core/policy.ts'
import { betaLowerBound } from './beta.ts'

/**
 * What is known of a node: its record, entry by entry, folded into three axes that are never summed (A. Jøsang and R. Ismail,
 * "The Beta Reputation System", 2002, with forgetting). Plain JSON, and a function of the entries alone: folding the record
 * again gives the same.
 */
export interface TrustState {
  /** Weights of what spoke for it and against it, each time a little forgotten. */
  readonly correct: Evidence
  readonly available: Evidence
  /** Its time over the mean of those that agreed with it: below 1 is faster. */
  readonly relativeTime: number
  readonly timed: number
  readonly agreements: number
  readonly disagreements: number
  /** Convictions. */
  readonly strikes: number
  readonly score: number
}

interface Evidence {
  readonly good: number
  readonly bad: number
}

const NOTHING: Evidence = { good: 0, bad: 0 }

const newTrust = ({ score }: TrustConfig): TrustState => ({
  correct: NOTHING,
  available: NOTHING,
  relativeTime: 1,
  timed: 0,
  agreements: 0,
  disagreements: 0,
  strikes: 0,
  score: score.initial,
})

const add = ({ good, bad }: Evidence, forgetting: number, moreGood: number, moreBad: number): Evidence => ({
  good: good * forgetting + moreGood,
  bad: bad * forgetting + moreBad,
})

/** The node's trust after one more entry of its record. */
export const foldTrust = (
  before: TrustState | undefined,
  entry: Pick<ReputationEntry, 'kind' | 'ms' | 'averageMs'>,
  { trust: config }: Pick<VerificationConfig, 'trust'>,
): TrustState => {
  const trust = before ?? newTrust(config)
  const { forgetting, score } = config
  const delivered = (): Evidence => add(trust.available, forgetting, 1, 0)
  const missed = (): Evidence => add(trust.available, forgetting, 0, 1)
  const scored = (points: number): number => Math.min(score.max, Math.max(0, trust.score + points))
  switch (entry.kind) {
    case 'agreed':
      return {
        ...trust,
        ...timed(trust, entry, config),
        correct: add(trust.correct, forgetting, 1, 0),
        available: delivered(),
        agreements: trust.agreements + 1,
        score: scored(score.agreed),
      }
    case 'alone':
      return { ...trust, available: delivered() }
    case 'disagreed':
      return {
        ...trust,
        correct: add(trust.correct, forgetting, 0, config.wrongWeight),
        available: delivered(),
        disagreements: trust.disagreements + 1,
        score: scored(score.disagreed),
      }
    case 'invalid':
      return { ...trust, correct: add(trust.correct, forgetting, 0, config.invalidWeight), available: missed() }
    case 'failed':
    case 'timeout':
      return { ...trust, available: missed() }
    case 'silent':
      return { ...trust, available: missed(), score: scored(score.silent) }
    case 'convicted':
      return { ...trust, agreements: 0, strikes: trust.strikes + 1 }
    // Leaving is no fault; what came late was counted when its lease ended.
    case 'left':
    case 'late':
      return trust
    default:
      return entry.kind satisfies never
  }
}

const maxRelativeTime = 100

/** The mean of its first times, then an average that moves with each. */
const timed = (
  trust: TrustState,
  { ms, averageMs }: Pick<ReputationEntry, 'ms' | 'averageMs'>,
  { speedShare }: TrustConfig,
): Pick<TrustState, 'relativeTime' | 'timed'> => {
  if (ms === undefined || averageMs === undefined || !(averageMs > 0) || !(ms >= 0)) return trust
  const relative = Math.min(ms / averageMs, maxRelativeTime)
  const share = Math.max(speedShare, 1 / (trust.timed + 1))
  return { relativeTime: trust.relativeTime + share * (relative - trust.relativeTime), timed: trust.timed + 1 }
}

const minRelativeTime = 0.01

/** The view of it; a node without a record has an empty one. */
export const trustView = (state: TrustState | undefined, config: VerificationConfig): Trust => {
  const trust = state ?? newTrust(config.trust)
  return {
    score: Math.round(trust.score),
    correctness: boundOf(trust.correct),
    availability: boundOf(trust.available),
    speed: 1 / Math.max(trust.relativeTime, minRelativeTime),
    agreements: trust.agreements,
    established: trust.agreements >= config.establishedAgreements,
    disagreements: trust.disagreements,
  }
}

/** Little evidence leaves a low bound: who is new begins low and rises by what it does. */
const boundOf = ({ good, bad }: Evidence): number => betaLowerBound(good + 1, bad + 1)
