import { describe, expect, it } from 'vitest'
import type { ProcessEvent } from './agent.ts'
import { createEventQueue } from './event-queue.ts'

const stdout = (text: string): ProcessEvent => ({ type: 'stdout', data: Buffer.from(text) })

describe('the event queue', () => {
  it('hands out what was pushed before it ended, then ends, or fails', async () => {
    const queue = createEventQueue(() => {})
    queue.push({ type: 'started', pid: 1 })
    queue.push(stdout('a'))
    queue.end(new Error('gone'))
    queue.push(stdout('never'))
    expect(await queue.next()).toEqual({ done: false, value: { type: 'started', pid: 1 } })
    expect(await queue.next()).toEqual({ done: false, value: stdout('a') })
    await expect(queue.next()).rejects.toThrow('gone')
  })

  it('gives an event to whoever waits for it', async () => {
    const taken: ProcessEvent[] = []
    const queue = createEventQueue((event) => taken.push(event))
    const next = queue.next()
    queue.push(stdout('x'))
    expect(await next).toEqual({ done: false, value: stdout('x') })
    expect(taken).toEqual([stdout('x')])
    const last = queue.next()
    queue.end()
    expect(await last).toEqual({ done: true, value: undefined })
  })

  it('joins small pieces, in order within each stream, so that few objects wait', async () => {
    const queue = createEventQueue(() => {})
    queue.push({ type: 'started', pid: 1 })
    for (let i = 0; i < 10_000; i++) {
      queue.push(stdout(String(i % 10)))
      queue.push({ type: 'stderr', data: Buffer.from(String((i + 5) % 10)) })
    }
    queue.end()
    let events = 0
    const text = { stdout: '', stderr: '' }
    for (let next = await queue.next(); !next.done; next = await queue.next()) {
      events++
      if (next.value.type === 'stdout' || next.value.type === 'stderr')
        text[next.value.type] += next.value.data.toString()
      else expect(events).toBe(1)
    }
    expect(events).toBeLessThanOrEqual(1025)
    expect(text.stdout).toBe('0123456789'.repeat(1000))
    expect(text.stderr).toBe('5678901234'.repeat(1000))
  })
})
