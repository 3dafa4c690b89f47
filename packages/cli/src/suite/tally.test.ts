import { expect, test } from 'vitest'
import { addTallies, explainSkips, tallyLine } from './tally.ts'

test('the line adds up what every runner counted', () => {
  const total = addTallies([
    { passed: 3, failed: ['a'], skipped: [{ name: 'b', reason: 'no Docker' }] },
    { passed: 1, failed: [], skipped: [{ name: 'c', reason: 'no Docker' }] },
  ])
  expect(tallyLine(total)).toBe('tests: 4 passed, 1 failed, 2 skipped')
  expect(explainSkips(total)).toEqual(['skipped 2 tests, b first: no Docker'])
})
