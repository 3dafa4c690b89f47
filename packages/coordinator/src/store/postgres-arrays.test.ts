import { Client } from 'pg'
import { expect, test } from 'vitest'
import { usePostgres } from '../testing/use-postgres.ts'
import { int8Array, textArray } from './postgres-arrays.ts'

const server = usePostgres()

test('arrays arrive in PostgreSQL as they were', async (context) => {
  const client = new Client(await server(context).newDatabase())
  await client.connect()
  try {
    const texts = ['', 'NULL', null, '{"a,b"}\\', 'é🦊\r\n', 'x'.repeat(100_000)]
    const numbers = [0, -1, null, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER]
    const { rows } = await client.query('select $1::text[] as texts, $2::bigint[] as numbers, $3::text[] as none', [
      textArray(texts),
      int8Array(numbers),
      textArray([]),
    ])
    expect(rows).toEqual([
      { texts, numbers: numbers.map((value) => (value === null ? null : String(value))), none: [] },
    ])
  } finally {
    await client.end()
  }
})
