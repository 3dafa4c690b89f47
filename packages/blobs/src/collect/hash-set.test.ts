import { createHash } from 'node:crypto'
import type { BlobHash } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { hashSet } from './hash-set.ts'

const hashOf = (value: number): BlobHash => createHash('sha256').update(String(value)).digest('hex') as BlobHash

test('has what was added, and nothing else', () => {
  const set = hashSet()
  for (let i = 0; i < 50_000; i++) set.add(hashOf(i))
  for (let i = 0; i < 50_000; i += 7) set.add(hashOf(i))
  expect(set.size).toBe(50_000)
  for (let i = 0; i < 50_000; i++) if (!set.has(hashOf(i))) expect.fail(`${i} is missing`)
  for (let i = 50_000; i < 60_000; i++) if (set.has(hashOf(i))) expect.fail(`${i} was not added`)
})

test('hashes of zeros, and ones that begin alike', () => {
  const set = hashSet()
  const zeros = '0'.repeat(64) as BlobHash
  const low = `${'0'.repeat(15)}1${'0'.repeat(48)}` as BlobHash
  const high = `1${'0'.repeat(63)}` as BlobHash
  for (const hash of [zeros, low, high]) {
    expect(set.has(hash)).toBe(false)
    set.add(hash)
    expect(set.has(hash)).toBe(true)
  }
  expect(set.size).toBe(3)
})
