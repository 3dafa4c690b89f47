import { expect, test } from 'vitest'
import { examineAll } from './part.ts'

const signal = new AbortController().signal

test('parts keep their order, and one that throws is one that fails', async () => {
  const reports = await examineAll(
    [
      { group: 'g', name: 'a', examine: () => Promise.reject(new Error('one line\nand another')) },
      { group: 'g', name: 'b', examine: async () => ({ state: 'works', detail: 'tried' }) },
    ],
    signal,
  )
  expect(reports).toEqual([
    { group: 'g', name: 'a', state: 'fails', detail: 'one line' },
    { group: 'g', name: 'b', state: 'works', detail: 'tried' },
  ])
})

test('an abort ends it', async () => {
  const parts = [{ group: 'g', name: 'a', examine: () => Promise.reject(new Error('x')) }]
  await expect(examineAll(parts, AbortSignal.abort(new Error('stop')))).rejects.toThrow('stop')
})
