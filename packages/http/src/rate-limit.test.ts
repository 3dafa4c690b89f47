import { expect, test } from 'vitest'
import { rateHeaders, tokenBucket } from './rate-limit.ts'

test('lets a second of requests through at once, then as many as flow in', () => {
  let now = 0
  const bucket = tokenBucket(2, () => now)
  expect([bucket.take(), bucket.take(), bucket.take()].map(({ allowed }) => allowed)).toEqual([true, true, false])
  expect(bucket.take()).toMatchObject({ allowed: false, remaining: 0, waitMs: 500 })
  now += 499
  expect(bucket.take().allowed).toBe(false)
  now += 1
  expect(bucket.take().allowed).toBe(true)
  now += 60_000
  expect(bucket.take()).toMatchObject({ allowed: true, limit: 2, remaining: 1, waitMs: 0 })
})

test('serves less than one a second', () => {
  let now = 0
  const bucket = tokenBucket(0.1, () => now)
  expect(bucket.take().allowed).toBe(true)
  expect(bucket.take().waitMs).toBe(10_000)
  now += 10_000
  expect(bucket.take().allowed).toBe(true)
})

test('tells the wait in whole seconds', () => {
  expect(rateHeaders({ allowed: false, limit: 2, remaining: 0, waitMs: 1200 })).toEqual({
    'ratelimit-limit': '2',
    'ratelimit-remaining': '0',
    'ratelimit-reset': '2',
  })
})
