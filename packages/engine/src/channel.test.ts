import { describe, expect, test } from 'vitest'
import { createChannel } from './channel.ts'

describe('channel', () => {
  test('hands values over in order and ends', async () => {
    const channel = createChannel<number>({ highWaterBytes: 10 })
    for (let i = 0; i < 5; i++) expect(channel.push(i, 1)).toBeUndefined()
    channel.end()
    expect(await Array.fromAsync(channel)).toEqual([0, 1, 2, 3, 4])
  })

  test('makes the writer wait above the high water mark, until enough was read', async () => {
    const channel = createChannel<string>({ highWaterBytes: 10 })
    const wait = channel.push('a', 11)
    expect(wait).toBeInstanceOf(Promise)
    let released = false
    void wait?.then(() => {
      released = true
    })
    await Promise.resolve()
    expect(released).toBe(false)
    const reader = channel[Symbol.asyncIterator]()
    expect(await reader.next()).toEqual({ value: 'a', done: false })
    await wait
    expect(channel.push('b', 1)).toBeUndefined()
  })

  test('a reader that leaves early releases the writer, tells, and takes no more', async () => {
    let leaves = 0
    const channel = createChannel<number>({ highWaterBytes: 1, onLeave: () => leaves++ })
    channel.push(1, 1)
    const wait = channel.push(2, 1)
    for await (const _ of channel) break
    await wait
    expect(leaves).toBe(1)
    expect(channel.left).toBe(true)
    expect(channel.push(3, 100)).toBeUndefined()
  })

  test('relaxed, it waits no more and drops bytes past the bound, but not what has no size', async () => {
    const channel = createChannel<string>({ highWaterBytes: 1 })
    const wait = channel.push('first', 5)
    channel.relax(8)
    await wait
    expect(channel.push('dropped', 4)).toBeUndefined()
    expect(channel.push('kept', 3)).toBeUndefined()
    channel.push('exit')
    channel.end()
    expect(await Array.fromAsync(channel)).toEqual(['first', 'kept', 'exit'])
  })

  test('is iterated once', () => {
    const channel = createChannel<string>({ highWaterBytes: 1 })
    channel[Symbol.asyncIterator]()
    expect(() => channel[Symbol.asyncIterator]()).toThrow(TypeError)
  })
})
