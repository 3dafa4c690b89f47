import { expect, test } from 'vitest'
import { type Plan, runSteps, type Step, type StepOutcome } from './step.ts'

const ran: string[] = []
const step = (title: string, plan: Partial<Plan> | undefined): Step => ({
  title,
  plan: async () => plan && { does: `do ${title}`, run: async () => void ran.push(title), ...plan },
})

const STEPS = [
  step('there', undefined),
  step('new', {}),
  step('not here', { blocked: ['only root may'] }),
  step('broken', { run: () => Promise.reject(new Error('two\nlines')) }),
  step('last', {}),
]

const runAll = async (options: { dryRun: boolean; signal?: AbortSignal }) => {
  ran.length = 0
  const ended: StepOutcome[] = []
  const observer = { started: () => {}, progress: () => {}, ended: (outcome: StepOutcome) => void ended.push(outcome) }
  const outcomes = await runSteps(STEPS, { signal: new AbortController().signal, ...options, observer })
  expect(ended).toEqual(outcomes)
  return outcomes
}

test('a step that is blocked or fails says why, and the others still run', async () => {
  const outcomes = await runAll({ dryRun: false })
  expect(outcomes.map(({ state }) => state)).toEqual(['in place', 'done', 'blocked', 'failed', 'done'])
  expect(outcomes[2]?.reasons).toEqual(['only root may'])
  expect(outcomes[3]?.reasons).toEqual(['two', 'lines'])
  expect(ran).toEqual(['new', 'last'])
})

test('a dry run runs nothing', async () => {
  const outcomes = await runAll({ dryRun: true })
  expect(outcomes.map(({ state }) => state)).toEqual(['in place', 'would run', 'blocked', 'would run', 'would run'])
  expect(ran).toEqual([])
})

test('an abort ends it', async () => {
  await expect(runAll({ dryRun: false, signal: AbortSignal.abort(new Error('stop')) })).rejects.toThrow('stop')
  expect(ran).toEqual([])
})
