import { expect, test } from 'vitest'
import { paginate } from './paginate.ts'

test('walks every item once, in the order of the keys', () => {
  const items = ['c', 'a', 'e', 'b', 'd']
  const seen: string[] = []
  let cursor: string | null | undefined
  do {
    const page = paginate(items, (item) => item, { limit: 2, ...(cursor && { cursor }) })
    expect(page.items.length).toBeLessThanOrEqual(2)
    seen.push(...page.items)
    cursor = page.nextCursor
  } while (cursor)
  expect(seen).toEqual(['a', 'b', 'c', 'd', 'e'])
})
