import { expect, test } from 'vitest'
import { createRates } from './rates.ts'

const ratesAt = (options: { perSecond: number; burst?: number; maxNames?: number }) => {
  let now = 0
  const rates = createRates({ what: 'tests', maxNames: 100, ...options, now: () => now })
  const pass = (ms: number): void => {
    now += ms
  }
  return { rates, pass }
}

test('a burst, then as many as a second brings', () => {
  const { rates, pass } = ratesAt({ perSecond: 2, burst: 3 })
  for (let at = 0; at < 3; at++) rates.take('a')
  expect(() => rates.take('a')).toThrow(expect.objectContaining({ code: 'rate_limited', retryAfterMs: 500 }))
  rates.take('b')
  pass(500)
  rates.take('a')
  expect(() => rates.take('a')).toThrow()
})

test('looking takes nothing; what is owed delays what comes', () => {
  const { rates, pass } = ratesAt({ perSecond: 1, burst: 1 })
  rates.check('a')
  rates.check('a')
  rates.owe('a', 2)
  expect(() => rates.check('a')).toThrow(expect.objectContaining({ retryAfterMs: 2000 }))
  pass(2000)
  rates.check('a')
})

test('more than a burst is taken from a full bucket, and owed', () => {
  const { rates, pass } = ratesAt({ perSecond: 10, burst: 10 })
  rates.take('a', 25)
  pass(1500)
  expect(() => rates.take('a')).toThrow()
  pass(100)
  rates.take('a')
})

test('the name that was quiet longest is forgotten first', () => {
  const { rates } = ratesAt({ perSecond: 1, burst: 1, maxNames: 2 })
  for (const name of ['a', 'b']) rates.take(name)
  expect(() => rates.take('a')).toThrow()
  rates.take('c')
  rates.take('b')
  expect(() => rates.take('a')).not.toThrow()
})
