import { expect, test } from 'vitest'
import { createDeadlines } from './deadlines.ts'

const clock = { now: () => Date.now(), monotonicMs: () => performance.now() }

/** Deadlines, and what came due so far; `all` resolves when `count` have. */
const setUp = (count: number) => {
  const came: string[] = []
  const all = Promise.withResolvers<void>()
  const deadlines = createDeadlines<string>(clock, (item) => {
    came.push(item)
    if (came.length === count) all.resolve()
  })
  return { deadlines, came, all: all.promise }
}

test('what is due comes, the nearest first; an earlier moment stays, and what is forgotten does not come', async () => {
  const { deadlines, came, all } = setUp(3)
  const now = Date.now()
  deadlines.set('late', now + 60)
  deadlines.set('soon', now + 20)
  deadlines.set('soon', now + 100_000)
  deadlines.set('forgotten', now + 5)
  deadlines.set('past', now - 1000)
  deadlines.forget('forgotten')
  await all
  expect(came).toEqual(['past', 'soon', 'late'])
  deadlines.close()
})

test('what is years away is no timer at once', async () => {
  const { deadlines, came, all } = setUp(1)
  deadlines.set('far', Date.now() + 366 * 24 * 3_600_000)
  deadlines.set('near', Date.now() + 5)
  await all
  expect(came).toEqual(['near'])
  deadlines.close()
})
