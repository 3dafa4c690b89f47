import { describe, expect, it } from 'vitest'
import { steadyClock } from './steady-clock.ts'

describe('steadyClock', () => {
  it('goes with the clock, and not with its jumps', () => {
    let wall = 1_000_000
    const steady = steadyClock(() => wall, 5000)
    const began = steady()
    wall += 500
    expect(steady() - began).toBe(500)
    wall += 300_000
    expect(steady() - began).toBe(500)
    wall += 5000
    expect(steady() - began).toBe(5500)
    wall -= 600_000
    expect(steady() - began).toBe(5500)
    wall += 100
    expect(steady() - began).toBe(5600)
  })
})
