import { describe, expect, test } from 'vitest'
import { rendezvous } from './rendezvous.ts'

const USERS = 20_000
const users = Array.from({ length: USERS }, (_, i) => `tenant/user-${i}`)
const nodes = (count: number, weight = 1) => {
  const table = rendezvous()
  for (let i = 0; i < count; i++) table.set(`node-${i}`, weight)
  return table
}
const homes = (table: ReturnType<typeof rendezvous>) => users.map((user) => table.choose(user) ?? 'none')
const countOf = (where: readonly string[]) => {
  const counts = new Map<string, number>()
  for (const id of where) counts.set(id, (counts.get(id) ?? 0) + 1)
  return counts
}

describe('without bounds', () => {
  test('the users of a node that goes are all that move, and they are its share', () => {
    const table = nodes(100)
    const before = homes(table)
    table.remove('node-37')
    const after = homes(table)
    const moved = users.filter((_, i) => before[i] !== after[i]).length
    const needless = users.filter((_, i) => before[i] !== 'node-37' && before[i] !== after[i]).length
    expect(needless).toBe(0)
    expect(moved).toBe(before.filter((id) => id === 'node-37').length)
    // 1% of 20,000 is 200, with a standard deviation of 14.
    expect(moved).toBeGreaterThan(140)
    expect(moved).toBeLessThan(260)
    // They spread over all others, and do not fall on one.
    const heirs = countOf(after.filter((_, i) => before[i] === 'node-37'))
    expect(Math.max(...heirs.values())).toBeLessThan(12)
  })

  test('a node that comes takes its share, and nobody moves between the others', () => {
    const table = nodes(99)
    const before = homes(table)
    table.set('node-new', 1)
    const after = homes(table)
    const moved = users.filter((_, i) => before[i] !== after[i])
    expect(after.filter((id, i) => before[i] !== id).every((id) => id === 'node-new')).toBe(true)
    expect(moved.length).toBeGreaterThan(140)
    expect(moved.length).toBeLessThan(260)
  })

  test('the way back is the way there', () => {
    const table = nodes(50)
    const before = homes(table)
    table.remove('node-3')
    table.remove('node-49')
    table.set('node-3', 1)
    table.set('node-49', 1)
    expect(homes(table)).toEqual(before)
  })

  test('a node of twice the weight has twice the users, whatever the unit of weights', () => {
    for (const unit of [1, 16]) {
      const table = rendezvous()
      for (let i = 0; i < 30; i++) table.set(`node-${i}`, unit * (i < 10 ? 2 : 1))
      const counts = countOf(homes(table))
      const of = (from: number, to: number) => {
        let sum = 0
        for (let i = from; i < to; i++) sum += counts.get(`node-${i}`) ?? 0
        return sum / (to - from)
      }
      expect(of(0, 10) / of(10, 30)).toBeGreaterThan(1.9)
      expect(of(0, 10) / of(10, 30)).toBeLessThan(2.1)
    }
  })

  test('a change of one weight moves only to the node that grew, or from the node that shrank', () => {
    const table = nodes(20, 4)
    const before = homes(table)
    table.set('node-5', 8)
    const grown = homes(table)
    expect(grown.every((id, i) => id === before[i] || id === 'node-5')).toBe(true)
    expect(grown).not.toEqual(before)
    table.set('node-5', 2)
    const shrunk = homes(table)
    expect(shrunk.every((id, i) => id === grown[i] || grown[i] === 'node-5')).toBe(true)
  })

  test('the order of a key begins with its home, and goes on with where it moves', () => {
    const table = nodes(40)
    for (const user of users.slice(0, 200)) {
      const order = table.order(user, 3)
      expect(table.choose(user)).toBe(order[0])
      const without = new Set(order.slice(0, 2))
      expect(table.choose(user, { allowed: (id) => !without.has(id) })).toBe(order[2])
    }
  })
})

describe('with bounds', () => {
  test('no node holds more than 1.25 times its share, and most users are at their home', () => {
    const table = rendezvous()
    for (let i = 0; i < 50; i++) table.set(`node-${i}`, i % 5 === 0 ? 3 : 1)
    const homely = users.filter((user) => {
      const id = table.choose(user, { bounded: true }) ?? 'none'
      table.hold(id, 1)
      return id === table.choose(user)
    }).length
    let held = 0
    for (let i = 0; i < 50; i++) {
      const weight = i % 5 === 0 ? 3 : 1
      const share = (USERS * weight) / 70
      held += table.held(`node-${i}`)
      expect(table.held(`node-${i}`)).toBeLessThanOrEqual(Math.ceil(1.25 * share))
    }
    expect(held).toBe(USERS)
    expect(homely / USERS).toBeGreaterThan(0.9)
  })

  test('few users over many nodes: nobody has two while others have none that could take them', () => {
    const table = nodes(8)
    for (let i = 0; i < 4; i++) {
      const id = table.choose(`user-${i}`, { bounded: true }) ?? ''
      table.hold(id, 1)
      expect(table.held(id)).toBe(1)
    }
  })

  test('what a node held goes with it', () => {
    const table = nodes(2)
    for (const user of users.slice(0, 100)) table.hold(table.choose(user, { bounded: true }) ?? '', 1)
    expect(table.bound('node-0')).toBe(63)
    const rest = 100 - table.held('node-0')
    table.remove('node-0')
    expect(table.bound('node-1')).toBe(Math.ceil(1.25 * rest))
    expect(table.held('node-0')).toBe(0)
    // The only one: there is always room.
    for (let i = 0; i < 200; i++) table.hold(table.choose(`more-${i}`, { bounded: true }) ?? '', 1)
    expect(table.held('node-1')).toBe(rest + 200)
  })
})

test('nobody is nobody’s', () => {
  const table = rendezvous()
  expect(table.choose('user')).toBeUndefined()
  table.set('a', 1)
  expect(table.choose('user', { allowed: () => false })).toBeUndefined()
  expect(() => table.set('b', 0)).toThrow(RangeError)
  table.remove('b')
  expect(table.size).toBe(1)
  expect(table.has('b')).toBe(false)
})
