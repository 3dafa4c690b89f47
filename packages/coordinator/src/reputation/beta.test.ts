import { expect, it } from 'vitest'
import { betaLowerBound } from './beta.ts'

/** The share of a Beta(a, b) below x, by adding up its density in so many steps of equal width in the angle. */
const shareBelow = (x: number, a: number, b: number): number => {
  const STEPS = 20_000
  const density = (angle: number): number => {
    const sine = Math.sin(angle)
    const cosine = Math.cos(angle)
    // x = sin², dx = 2 sin cos: no pole at the ends for shapes from 1/2 on.
    return Math.exp((2 * a - 1) * Math.log(sine) + (2 * b - 1) * Math.log(cosine) - peak)
  }
  const top = Math.atan(Math.sqrt((2 * a - 1) / Math.max(2 * b - 1, 1e-12)))
  const peak = (2 * a - 1) * Math.log(Math.sin(top)) + (2 * b - 1) * Math.log(Math.cos(top))
  const until = Math.asin(Math.sqrt(x))
  let below = 0
  let all = 0
  for (let step = 0; step < STEPS; step++) {
    const angle = ((step + 0.5) / STEPS) * (Math.PI / 2)
    const part = density(angle)
    all += part
    if (angle < until) below += part
  }
  return below / all
}

const quantile = (a: number, b: number): number => {
  let [low, high] = [0, 1]
  for (let step = 0; step < 30; step++) {
    const middle = (low + high) / 2
    if (shareBelow(middle, a, b) < 0.05) low = middle
    else high = middle
  }
  return (low + high) / 2
}

const SHAPES = [1, 1.05, 1.5, 2, 4, 10, 30, 101]

it.each(SHAPES.flatMap((a) => SHAPES.map((b) => [a, b] as const)))('is near the quantile of Beta(%d, %d)', (a, b) => {
  expect(Math.abs(betaLowerBound(a, b) - quantile(a, b))).toBeLessThan(0.015)
})

it('rises with what speaks for it, and falls with what speaks against it', () => {
  for (let a = 1; a < 100; a += 0.7) {
    for (let b = 1; b < 30; b += 0.7) {
      expect(betaLowerBound(a + 0.7, b)).toBeGreaterThan(betaLowerBound(a, b))
      expect(betaLowerBound(a, b + 0.7)).toBeLessThan(betaLowerBound(a, b))
    }
  }
})
