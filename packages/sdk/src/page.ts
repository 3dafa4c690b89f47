import type { CallOptions } from './call.ts'
import { badResponse } from './failure.ts'
import type { Schema, Transport } from './transport.ts'

/** One page of a list; `nextCursor` is null on the last. */
export interface Page<T> {
  readonly items: T[]
  readonly nextCursor: string | null
}

/** A list that is longer than one answer: iterate its items, or its pages one by one. */
export interface PagedList<T> extends AsyncIterable<T> {
  /** Pages are asked for only when they are needed. */
  pages(): AsyncIterable<Page<T>>
  /** Every item, in memory. */
  all(): Promise<T[]>
}

export interface ListQuery extends CallOptions {
  /** Items of one page, not of the list. */
  readonly limit?: number | undefined
  /** Where to begin: the `nextCursor` of an earlier page. */
  readonly cursor?: string | undefined
}

export const pagedList = <T>(
  transport: Transport,
  path: string,
  schema: Schema<{ items: T[]; nextCursor?: string | null | undefined }>,
  query: Record<string, string | number | undefined>,
  options: ListQuery,
): PagedList<T> => {
  async function* pages(): AsyncGenerator<Page<T>, void, undefined> {
    let cursor = options.cursor
    do {
      const page = await transport.json(
        {
          method: 'GET',
          path,
          query: { ...query, limit: options.limit, cursor },
          signal: options.signal,
          requestTimeoutMs: options.requestTimeoutMs,
        },
        schema,
      )
      const nextCursor = page.nextCursor ?? null
      yield { items: page.items, nextCursor }
      // A cursor that does not move would make the list endless.
      if (nextCursor !== null && nextCursor === cursor) throw badResponse(`${path}: the cursor does not move`)
      cursor = nextCursor ?? undefined
    } while (cursor !== undefined)
  }
  async function* items(): AsyncGenerator<T, void, undefined> {
    for await (const page of pages()) yield* page.items
  }
  return { pages, [Symbol.asyncIterator]: items, all: () => Array.fromAsync(items()) }
}
