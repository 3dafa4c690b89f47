import { expect, test } from 'vitest'
import { createEntryWindow } from './entry-window.ts'

const entry = (seq: number) => ({ seq, name: 'n', data: null })

test('a window finds entries by position and by number, where numbers are missing too', () => {
  const window = createEntryWindow()
  for (const seq of [1, 2, 5, 9]) window.add(entry(seq), 0)
  expect([window.start, window.end]).toEqual([0, 4])
  expect([0, 1, 2, 4, 5, 8, 9, 100].map(window.after)).toEqual([0, 1, 2, 2, 3, 3, 4, 4])
  expect(window.at(2)).toEqual(entry(5))
  expect([window.at(-1), window.at(4)]).toEqual([undefined, undefined])
})

test('a window forgets the oldest, by bytes, and none that is still wanted', () => {
  const window = createEntryWindow()
  for (let seq = 1; seq <= 5000; seq++) window.add(entry(seq), 936)
  expect(window.bytesFrom(window.start)).toBe(5_000_000)
  expect(window.trim(10, 3000)).toEqual(entry(10))
  expect([window.start, window.at(9), window.at(10)]).toEqual([10, undefined, entry(11)])
  expect(window.trim(5000, 3000)).toEqual(entry(4997))
  expect(window.bytesFrom(window.start)).toBe(3000)
  expect([window.start, window.end, window.after(4998)]).toEqual([4997, 5000, 4998])
  expect(window.trim(5000, 3000)).toBeUndefined()
  expect(window.trim(5000, 0)).toEqual(entry(5000))
  window.add(entry(5001), 0)
  expect([window.at(5000), window.bytesFrom(5000), window.bytesFrom(5001)]).toEqual([entry(5001), 64, 0])
})
