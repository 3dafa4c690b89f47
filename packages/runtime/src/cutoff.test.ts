import { expect, test } from 'vitest'
import { cutoff } from './cutoff.ts'

const never = new Promise<never>(() => {})

test('what waits, and what will, ends with the first cut; what was there before is given', async () => {
  const { wait, cut } = cutoff()
  expect(await wait(Promise.resolve(1))).toBe(1)
  await expect(wait(Promise.reject(new Error('own')))).rejects.toThrow('own')
  const waiting = [wait(never), wait(never)]
  cut(new Error('cut'))
  cut(new Error('late'))
  for (const each of waiting) await expect(each).rejects.toThrow('cut')
  await expect(wait(never)).rejects.toThrow('cut')
  await expect(wait(Promise.reject(new Error('nobody hears of it')))).rejects.toThrow('cut')
})

test('keeps nothing of what went by', async () => {
  const { wait } = cutoff()
  const pieceBytes = 1024 * 1024
  const before = process.memoryUsage().arrayBuffers
  const weak: WeakRef<Buffer>[] = []
  for (let i = 0; i < 256; i++) {
    const piece = Buffer.alloc(pieceBytes)
    weak.push(new WeakRef(piece))
    await wait(Promise.resolve(piece))
    await new Promise(setImmediate)
  }
  // Collected by the pressure of their own bytes.
  expect(weak.filter((ref) => ref.deref() !== undefined).length).toBeLessThan(256)
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(256 * pieceBytes)
})
