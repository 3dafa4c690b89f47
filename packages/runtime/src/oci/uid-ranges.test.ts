import { expect, test } from 'vitest'
import { IDS_PER_SANDBOX } from './config.ts'
import { uidRanges } from './uid-ranges.ts'

test('no range is taken twice, and one that was given back is used again', () => {
  const ranges = uidRanges(5)
  const [one, two] = [ranges.take(), ranges.take()]
  expect(two - one).toBe(IDS_PER_SANDBOX)
  ranges.release(one)
  ranges.release(one)
  expect(ranges.take()).toBe(one)
  expect(ranges.take()).toBe(two + IDS_PER_SANDBOX)
})

test('a range of a sandbox that runs already is passed over until it is given back', () => {
  const first = uidRanges(5).take()
  const ranges = uidRanges(5)
  ranges.claim(first + IDS_PER_SANDBOX)
  ranges.claim(12)
  expect([ranges.take(), ranges.take()]).toEqual([first, first + 2 * IDS_PER_SANDBOX])
  ranges.release(first + IDS_PER_SANDBOX)
  expect(ranges.take()).toBe(first + IDS_PER_SANDBOX)
})

test('there is an end to them, and ranges begin anew after the highest', () => {
  const ranges = uidRanges(16_383)
  const taken = new Set(Array.from({ length: 16_384 }, () => ranges.take()))
  expect(taken.size).toBe(16_384)
  expect(Math.max(...taken) + IDS_PER_SANDBOX).toBeLessThan(2 ** 31)
  expect(() => ranges.take()).toThrow(expect.objectContaining({ code: 'sandbox_failed' }))
  const [some = 0] = taken
  ranges.release(some)
  expect(ranges.take()).toBe(some)
})
