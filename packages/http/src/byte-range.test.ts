import { expect, test } from 'vitest'
import { byteRange } from './byte-range.ts'

test.for<[string, number, object | undefined]>([
  ['bytes=0-4', 10, { offset: 0, length: 5 }],
  ['bytes=5-', 10, { offset: 5, length: 5 }],
  ['bytes=5-99', 10, { offset: 5, length: 5 }],
  ['bytes=9-9', 10, { offset: 9, length: 1 }],
  ['bytes=-3', 10, { offset: 7, length: 3 }],
  ['bytes=-99', 10, { offset: 0, length: 10 }],
  ['Bytes= 1 - 2', 10, { offset: 1, length: 2 }],
  ['bytes=4-2', 10, undefined],
  ['bytes=0-1,3-4', 10, undefined],
  ['bytes=', 10, undefined],
  ['bytes=-', 10, undefined],
  ['bytes=a-b', 10, undefined],
  ['bytes=1-99999999999999999999', 10, undefined],
  ['lines=0-4', 10, undefined],
])('%s of %i bytes', ([header, size, range]) => {
  expect(byteRange(header, size)).toEqual(range)
})

test.for<[string, number]>([
  ['bytes=10-', 10],
  ['bytes=10-20', 10],
  ['bytes=-0', 10],
  ['bytes=0-', 0],
  ['bytes=-1', 0],
])('%s of %i bytes is not there', ([header, size]) => {
  expect(() => byteRange(header, size)).toThrow(expect.objectContaining({ code: 'range_not_satisfiable' }))
})
