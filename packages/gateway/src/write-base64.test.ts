import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { base64Bytes, writeBase64 } from './write-base64.ts'

test('writes what Buffer writes, for every length of the last group', () => {
  for (let length = 0; length < 50; length++) {
    const source = randomBytes(length)
    const target = Buffer.alloc(5 + base64Bytes(length))
    const end = writeBase64(source, target, 5)
    expect(end).toBe(target.length)
    expect(target.toString('latin1', 5, end)).toBe(source.toString('base64'))
  }
})
