import { expect, it } from 'vitest'
import { mayRegister, type OwnerRecord, withStrike } from './owners.ts'

const HOUR_MS = 3_600_000
const limits = { maxNodes: 100 }
const add = (owner: OwnerRecord | undefined, now: number): OwnerRecord => {
  const verdict = mayRegister(owner, now, limits)
  if (!verdict.allowed) throw new Error(verdict.message)
  return verdict.owner
}

it('lets whoever has done nothing wrong add nodes at once, up to the bound', () => {
  let owner: OwnerRecord | undefined
  for (let node = 0; node < 100; node++) owner = add(owner, 1000)
  expect(owner?.nodes).toBe(100)
  expect(mayRegister(owner, 1e12, limits)).toMatchObject({ allowed: false })
})

it('lets an owner wait after a strike, and between the nodes that it adds from then on', () => {
  const struck = withStrike(add(undefined, 0), 5000)
  expect(mayRegister(struck, 5000 + HOUR_MS - 1, limits)).toMatchObject({ allowed: false, retryAfterMs: 1 })
  const again = add(struck, 5000 + HOUR_MS)
  expect(again).toMatchObject({ nodes: 2, strikes: 1 })
  expect(mayRegister(again, 5001 + HOUR_MS, limits)).toMatchObject({ allowed: false })
  expect(mayRegister(again, 5000 + 2 * HOUR_MS, limits)).toMatchObject({ allowed: true })
})

it('waits twice as long with each strike, up to thirty days', () => {
  let owner: OwnerRecord | undefined
  for (let strikes = 1; strikes <= 5; strikes++) {
    owner = withStrike(owner, 0)
    expect(mayRegister(owner, 0, limits)).toMatchObject({ retryAfterMs: HOUR_MS * 2 ** (strikes - 1) })
  }
  for (let strikes = 6; strikes <= 2000; strikes++) owner = withStrike(owner, 0)
  expect(mayRegister(owner, 0, limits)).toMatchObject({ retryAfterMs: 30 * 24 * HOUR_MS })
})
