import { expect, test } from 'vitest'
import { newId } from './ids.ts'

test('ids of one millisecond sort in the order in which they were made, and are all different', () => {
  const ids = Array.from({ length: 5000 }, () => newId('execution', { now: () => 1_700_000_000_000 }))
  expect(ids.toSorted()).toEqual(ids)
  expect(new Set(ids).size).toBe(5000)
})

test('ids of a later millisecond sort after', () => {
  let now = 1_700_000_000_000
  const ids = Array.from({ length: 1000 }, () => newId('execution', { now: () => now++ }))
  expect(ids.toSorted()).toEqual(ids)
})

test('the clock and the entropy can be replaced', () => {
  const sources = { now: () => 32, random: (bytes: Uint8Array) => bytes.fill(0) }
  expect(newId('sandbox', sources)).toBe(`box_0000000010${'0'.repeat(16)}`)
})
