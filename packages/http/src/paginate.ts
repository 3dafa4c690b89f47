import type { PageQuery } from '@bramble/protocol'

/** One page of a list that is whole in memory, in the order of its keys; the cursor is the last key of a page. */
export const paginate = <T>(items: readonly T[], keyOf: (item: T) => string, query: PageQuery) => {
  const sorted = [...items].sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
  const { cursor } = query
  const rest = cursor === undefined ? sorted : sorted.filter((item) => keyOf(item) > cursor)
  const page = rest.slice(0, query.limit)
  const last = page.at(-1)
  return { items: page, nextCursor: last !== undefined && rest.length > page.length ? keyOf(last) : null }
}
