import { describe, expect, test } from 'vitest'
import { createDemand } from './demand.ts'

describe('demand', () => {
  test('without any, nothing is wanted', () => {
    expect(createDemand().wanted(0, 50)).toBe(0)
  })

  test('one take wants one, for a while', () => {
    const demand = createDemand()
    demand.took(1000)
    demand.returned()
    expect(demand.wanted(1000, 50)).toBe(1)
    expect(demand.wanted(31_000, 50)).toBe(1)
    expect(demand.wanted(600_000, 50)).toBe(0)
  })

  test('a burst wants as many as were in use at once', () => {
    const demand = createDemand()
    for (let i = 0; i < 8; i++) demand.took(1000)
    for (let i = 0; i < 8; i++) demand.returned()
    expect(demand.wanted(1000, 1)).toBe(8)
    expect(demand.wanted(200_000, 1)).toBeLessThan(8)
  })

  test('a steady rate wants what arrives while one is made, and some more', () => {
    const demand = createDemand()
    for (let ms = 0; ms < 60_000; ms += 10) {
      demand.took(ms)
      demand.returned()
    }
    // 100 a second, 100 ms each: 10 arrive meanwhile.
    expect(demand.wanted(60_000, 100)).toBe(20)
    expect(demand.wanted(60_000, 10)).toBe(2)
  })
})
