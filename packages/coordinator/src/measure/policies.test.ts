import { expect, it } from 'vitest'
import { ATTACKS, type Attack } from './attacks.ts'
import { type Measured, measurePolicy, POLICIES } from './policies.ts'

const JOBS = 8000
const measure = (policy: string, attack: string): Measured & { copies: number; wrong: number } => {
  const found = POLICIES.find(({ name }) => name.includes(policy))
  const against: Attack | undefined = ATTACKS.find(({ name }) => name.includes(attack))
  if (found === undefined || against === undefined) throw new Error(`${policy} against ${attack} is not measured`)
  const measured = measurePolicy(found, against, { nodes: 100, anchors: 4, jobs: JOBS, seed: 7 })
  return { ...measured, copies: measured.executions / JOBS, wrong: measured.wrongAtLast / JOBS }
}

it('two that must agree cost two copies, and let little through', () => {
  const { copies, wrong, liarsConvicted, honestConvicted } = measure('(default)', '20% lie in 1 of 10')
  expect(copies).toBeLessThan(2.02)
  expect(wrong).toBeLessThan(1e-3)
  expect(liarsConvicted).toBe(20)
  expect(honestConvicted).toBeLessThanOrEqual(1)
})

it('a proven node alone costs little more than one, and what it lied about is asked again', () => {
  const fast = measure('`fast`, else', '20% lie in 1 of 10')
  expect(fast.copies).toBeLessThan(1.35)
  expect(fast.wrong).toBeLessThan(1e-3)
  expect(fast.wrongAtLast).toBeLessThan(fast.wrongAtFirst)
  expect(fast.reopened).toBeGreaterThan(0)
})

it('the anchor rule holds against those who come back under new names, and nothing does without it', () => {
  expect(measure('(default)', 'come back at once').wrong).toBeLessThan(1e-3)
  expect(measure('`fast`, else', 'come back at once').wrong).toBeLessThan(1e-3)
  expect(measure('without the anchor rule', 'come back at once').wrong).toBeGreaterThan(0.02)
})

it('accomplices who talk win two votes of two, but not where they do not know who else is asked', () => {
  expect(measure('(default)', 'whole quorum').wrong).toBeGreaterThan(0.01)
  expect(measure('`paranoid`, 0.99', 'whole quorum').wrong).toBeLessThan(1e-3)
  const audited = measure('quorumAuditShare', 'whole quorum')
  expect(audited.wrong).toBeLessThan(measure('(default)', 'whole quorum').wrong / 2)
  expect(audited.liarsConvicted).toBeGreaterThan(5)
})

it('is the same for the same seed', () => {
  expect(measure('`fast`, else', '20% lie in 1 of 10')).toEqual(measure('`fast`, else', '20% lie in 1 of 10'))
})
