import type { ReputationKind } from '@bramble/protocol'
import { describe, expect, it } from 'vitest'
import { DEFAULT_VERIFICATION } from '../core/policy.ts'
import { seededRandom } from '../testing/random.ts'
import { foldTrust, type TrustState, trustView } from './trust.ts'

const config = DEFAULT_VERIFICATION
interface Entry {
  readonly kind: ReputationKind
  readonly ms?: number
  readonly averageMs?: number
}
const fold = (entries: readonly Entry[], from?: TrustState): TrustState | undefined =>
  entries.reduce<TrustState | undefined>((trust, entry) => foldTrust(trust, entry, config), from)
const view = (...kinds: ReputationKind[]) => trustView(fold(kinds.map((kind) => ({ kind }))), config)
const times = (count: number, kind: ReputationKind): ReputationKind[] => Array.from({ length: count }, () => kind)

describe('a node', () => {
  it('that nobody knows begins low, and rises by what it does', () => {
    const [nobody, some, many] = [view(), view(...times(5, 'agreed')), view(...times(100, 'agreed'))]
    expect(nobody).toMatchObject({ score: 100, agreements: 0, established: false, speed: 1 })
    expect(nobody.correctness).toBeCloseTo(0.05, 10)
    expect(some.correctness).toBeGreaterThan(0.5)
    expect(many.correctness).toBeGreaterThan(0.95)
    expect(many).toMatchObject({ score: 600, established: true })
  })

  it('is established by agreeing with others, not by standing alone', () => {
    expect(view(...times(9, 'agreed')).established).toBe(false)
    expect(view(...times(10, 'agreed')).established).toBe(true)
    expect(view(...times(500, 'alone'))).toMatchObject({ established: false, agreements: 0, score: 100 })
  })

  it('falls further by one lie than it rose by many truths', () => {
    const before = view(...times(100, 'agreed'))
    const after = view(...times(100, 'agreed'), 'disagreed', 'convicted')
    expect(after.correctness).toBeLessThan(before.correctness - 0.2)
    expect(after).toMatchObject({ established: false, agreements: 0, disagreements: 1, score: 590 })
    // Lying one time in three pays nothing.
    const cheat = view(...Array.from({ length: 300 }, (_, i): ReputationKind => (i % 3 === 2 ? 'disagreed' : 'agreed')))
    expect(cheat.correctness).toBeLessThan(0.1)
  })

  it('that goes away or fails is less available, and no liar', () => {
    const right = view(...times(50, 'agreed'))
    const silent = view(...times(50, 'agreed'), ...times(5, 'silent'))
    expect(silent.correctness).toBe(right.correctness)
    expect(silent.availability).toBeLessThan(right.availability)
    expect(silent.score).toBe(350 - 100)
    expect(view(...times(50, 'agreed'), ...times(20, 'left'), ...times(20, 'late'))).toEqual(right)
    expect(view(...times(50, 'agreed'), 'timeout').availability).toBeLessThan(right.availability)
    const malformed = view(...times(50, 'agreed'), 'invalid').correctness
    expect(malformed).toBeLessThan(right.correctness)
    expect(malformed).toBeGreaterThan(view(...times(50, 'agreed'), 'disagreed').correctness)
  })

  it('is as fast as it is beside those that agreed with it', () => {
    const run = (ms: number): Entry[] => Array.from({ length: 50 }, () => ({ kind: 'agreed', ms, averageMs: 100 }))
    expect(trustView(fold(run(50)), config).speed).toBeCloseTo(2)
    expect(trustView(fold(run(200)), config).speed).toBeCloseTo(0.5)
    for (const odd of [{ ms: Number.NaN, averageMs: 1 }, { ms: 1, averageMs: 0 }, { ms: -1, averageMs: 1 }, { ms: 1 }])
      expect(trustView(fold([{ kind: 'agreed', ...odd }]), config).speed).toBe(1)
    const hung = trustView(fold([{ kind: 'agreed', ms: 1e300, averageMs: 1e-300 }]), config).speed
    expect(hung).toBeCloseTo(0.01)
  })
})

const KINDS: readonly ReputationKind[] = [
  ...(['agreed', 'alone', 'disagreed', 'invalid', 'failed', 'timeout', 'late', 'silent', 'left', 'convicted'] as const),
]

it('is the same folded at once or entry by entry, through JSON, and within its bounds', () => {
  for (let seed = 1; seed <= 50; seed++) {
    const random = seededRandom(seed)
    const entries = Array.from({ length: 300 }, (): Entry => {
      const kind = random.chance(0.6) ? 'agreed' : random.pick(KINDS)
      return random.chance(0.5) ? { kind, ms: random() * 1000, averageMs: random() * 1000 } : { kind }
    })
    let kept: TrustState | undefined
    for (const entry of entries) {
      kept = JSON.parse(JSON.stringify(foldTrust(kept, entry, config)))
      const { score, correctness, availability, speed } = trustView(kept, config)
      expect(score).toBeGreaterThanOrEqual(0)
      expect(score).toBeLessThanOrEqual(1000)
      for (const share of [correctness, availability]) {
        expect(share).toBeGreaterThanOrEqual(0)
        expect(share).toBeLessThanOrEqual(1)
      }
      expect(speed).toBeGreaterThan(0)
    }
    expect(fold(entries)).toEqual(kept)
  }
})
