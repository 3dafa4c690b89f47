import { describe, expect, test } from 'vitest'
import { keepOutput, wholeCharactersBytes } from './kept-output.ts'

describe('kept output', () => {
  test('keeps the first bytes and says when there was more', () => {
    const kept = keepOutput(5)
    expect(kept.add(Buffer.from('abc'))).toBe(true)
    expect(kept.add(Buffer.from('de'))).toBe(true)
    expect(kept.truncated).toBe(false)
    expect(kept.add(Buffer.from('f'))).toBe(false)
    expect(kept.truncated).toBe(true)
    expect(kept.bytes().toString()).toBe('abcde')
    expect(kept.bytes(1, 3).toString()).toBe('bc')
  })

  test('shares room with others, beyond a part of its own', () => {
    const mib = 1024 * 1024
    const room = { leftBytes: mib }
    const one = keepOutput(10 * mib, room)
    const two = keepOutput(10 * mib, room)
    expect(one.add(Buffer.alloc(3 * mib))).toBe(false)
    expect(one.sizeBytes).toBe(2 * mib)
    for (let i = 0; i < 3; i++) two.add(Buffer.alloc(mib / 2))
    expect(two.sizeBytes).toBe(mib)
    expect(two.truncated).toBe(true)
    one.release()
    one.release()
    expect(room.leftBytes).toBe(mib)
    two.release()
    expect(room.leftBytes).toBe(mib)
    expect(keepOutput(10 * mib, room).add(Buffer.alloc(2 * mib))).toBe(true)
  })

  test('grows over many chunks, and a view taken earlier stays as it was', () => {
    const kept = keepOutput(100_000)
    kept.add(Buffer.from('x'.repeat(1000)))
    const early = kept.bytes()
    for (let i = 0; i < 99; i++) kept.add(Buffer.from(String(i % 10).repeat(1000)))
    expect(early.toString()).toBe('x'.repeat(1000))
    expect(kept.sizeBytes).toBe(100_000)
    expect(kept.bytes(99_000).toString()).toBe('8'.repeat(1000))
  })

  test('with a limit of nothing, keeps nothing', () => {
    const kept = keepOutput(0)
    expect(kept.add(Buffer.from('a'))).toBe(false)
    expect(kept.bytes().length).toBe(0)
  })

  test.each([
    ['aé', 3, 3],
    ['aé', 2, 1],
    ['€', 2, 0],
    ['a€', 3, 1],
    ['😀', 3, 0],
    ['😀', 4, 4],
    ['', 0, 0],
  ])('whole characters of %j cut at %d bytes: %d', (text, cut, expected) => {
    expect(wholeCharactersBytes(Buffer.from(text).subarray(0, cut))).toBe(expected)
  })

  test('bytes that are no text are left alone', () => {
    expect(wholeCharactersBytes(Uint8Array.of(0x80, 0x80, 0x80, 0x80))).toBe(4)
  })
})
