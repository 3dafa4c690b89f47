import { expect, test } from 'vitest'
import { idempotencyMemory, type Outcome } from './idempotency.ts'

const options = { maxEntries: 3, maxBytes: 10_000, ttlMs: 1000 }
const request = (key: string, fingerprint = 'body', tenant = 'a') => ({ tenant, route: 'POST /x', key, fingerprint })
const answered = async (outcome: Outcome) => (outcome.repeated ? outcome.answer() : outcome.answer)
const ok = (text: string) => async () => ({ status: 200, text })

test('gives the same answer again, and to those who came while the first was at work', async () => {
  const memory = idempotencyMemory(options)
  const work = Promise.withResolvers<{ status: number; text: string }>()
  let runs = 0
  const first = memory.run(request('k'), (note) => {
    runs++
    note('exe_1')
    return work.promise
  })
  const second = await memory.run(request('k'), ok('never'))
  expect(second).toMatchObject({ repeated: true, note: 'exe_1' })
  work.resolve({ status: 200, text: 'done' })
  expect(await answered(await first)).toEqual({ status: 200, text: 'done' })
  expect(await answered(second)).toEqual({ status: 200, text: 'done' })
  expect(await answered(await memory.run(request('k'), ok('never')))).toMatchObject({ text: 'done' })
  expect(runs).toBe(1)
})

test('refuses another body under the same key, and knows tenants apart', async () => {
  const memory = idempotencyMemory(options)
  await memory.run(request('k'), ok('mine'))
  await expect(memory.run(request('k', 'other'), ok('x'))).rejects.toMatchObject({ code: 'idempotency_mismatch' })
  expect(await memory.run(request('k', 'other', 'b'), ok('theirs'))).toMatchObject({ repeated: false })
})

test('keeps no failure that may pass', async () => {
  const memory = idempotencyMemory(options)
  for (const status of [429, 500, 503]) await memory.run(request('k'), async () => ({ status }))
  await expect(
    memory.run(request('k'), async () => {
      throw new Error('no')
    }),
  ).rejects.toThrow('no')
  expect(memory.size).toBe(0)
  expect(await memory.run(request('k'), ok('now'))).toMatchObject({ repeated: false, answer: { text: 'now' } })
})

test('forgets by age, by count and by bytes, the oldest first', async () => {
  let now = 0
  const memory = idempotencyMemory({ ...options, now: () => now })
  for (const key of ['1', '2', '3', '4']) await memory.run(request(key), ok(key))
  expect(memory.size).toBe(3)
  expect(await memory.run(request('4'), ok('x'))).toMatchObject({ repeated: true })
  await memory.run(request('big'), ok('x'.repeat(4400)))
  expect(memory.size).toBe(2)
  now = 1001
  expect(await memory.run(request('4'), ok('again'))).toMatchObject({ repeated: false })
  expect(memory.size).toBe(1)
})
