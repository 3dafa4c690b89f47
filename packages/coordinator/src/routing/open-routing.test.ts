import type { NodeId } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { caller, claimsOf, idOf, NETWORK, routedNetwork, spec } from '../testing/routed-network.ts'

test('a user stays with its node, moves when it is gone, and does not go back', async () => {
  const net = routedNetwork(5)
  const routing = net.open()
  const first = await routing.network.user('ann', caller)
  expect(first.url).toBe(`http://${first.node}.test`)
  const claims = claimsOf(first.token, net.time.now())
  expect(claims).toMatchObject({ network: NETWORK, node: first.node, tenant: 'acme', user: 'ann', epoch: 1 })
  expect(claims.expiresAtMs).toBe(Date.parse(first.expiresAt))
  expect((await routing.network.user('ann', caller)).node).toBe(first.node)

  net.lose(first.node)
  await net.time.advance(5_000)
  // Silent, and waited for.
  expect((await routing.network.user('ann', caller)).node).toBe(first.node)
  await net.time.advance(20_000)
  const second = await routing.network.user('ann', caller)
  expect(second.node).not.toBe(first.node)
  expect(claimsOf(second.token, net.time.now()).epoch).toBe(2)

  net.comeBack(routing, first.node)
  await net.time.advance(5_000)
  expect((await routing.network.user('ann', caller)).node).toBe(second.node)
})

test('users of a node that drains stay until it is drained; new ones go elsewhere', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { node } = await routing.network.user('ann', caller)
  net.set(node, 'draining')
  await net.time.advance(60_000)
  expect((await routing.network.user('ann', caller)).node).toBe(node)
  for (let i = 0; i < 20; i++) expect((await routing.network.user(`new-${i}`, caller)).node).not.toBe(node)
  net.set(node, 'drained')
  expect((await routing.network.user('ann', caller)).node).not.toBe(node)
})

test('users are placed by capacity, within 1.25 times the share, and one node’s loss moves its users only', async () => {
  const net = routedNetwork(10)
  net.set(idOf(1), 'online', { cpus: 8, memoryMb: 16_384 })
  const routing = net.open()
  const where = async () => {
    const homes: NodeId[] = []
    for (let i = 0; i < 1100; i++) homes.push((await routing.network.user(`user-${i}`, caller)).node)
    return homes
  }
  const before = await where()
  const counts = new Map<NodeId, number>()
  for (const node of before) counts.set(node, (counts.get(node) ?? 0) + 1)
  expect(counts.get(idOf(1))).toBeLessThanOrEqual(250)
  expect(counts.get(idOf(1))).toBeGreaterThan(150)
  for (let i = 2; i <= 10; i++) expect(counts.get(idOf(i))).toBeLessThanOrEqual(125)
  net.set(idOf(4), 'suspended')
  const after = await where()
  expect(after.filter((node, i) => node !== before[i]).length).toBe(counts.get(idOf(4)))
  expect(after).not.toContain(idOf(4))
})

test('a user is where the last coordinator said; its epochs go on; who is idle is forgotten', async () => {
  const net = routedNetwork(8, { sessionIdleMs: 60_000 })
  const first = net.open()
  const { node } = await first.network.user('ann', caller)
  await first.network.user('bob', caller)
  await first.close()
  // Another order of nodes would choose another one: the record is what counts.
  net.set(node, 'online', { cpus: 1, memoryMb: 512 })
  const second = net.open()
  expect(second.counts.users).toBe(2)
  expect((await second.network.user('ann', caller)).node).toBe(node)
  await net.time.advance(61_000)
  expect(second.counts.users).toBe(0)
  await second.network.user('eve', caller)
  expect([...net.documents.keys()].sort()).toEqual(['routing epoch', 'session acme/eve'])
  const third = net.open()
  const late = await third.network.user('late', caller)
  expect(claimsOf(late.token, net.time.now()).epoch).toBe(4)
})

test('no more users are held than allowed: the one that was away the longest goes', async () => {
  const net = routedNetwork(2, { maxSessions: 3 })
  const routing = net.open()
  for (const user of ['a', 'b', 'c', 'a', 'd']) await routing.network.user(user, caller)
  await routing.network.user('e', caller)
  expect(routing.counts.users).toBe(3)
  expect([...net.documents.keys()].filter((key) => key.startsWith('session')).sort()).toEqual([
    'session acme/a',
    'session acme/d',
    'session acme/e',
  ])
})

test('nobody is told of what is not durable', async () => {
  const net = routedNetwork(1)
  const routing = net.open()
  await routing.network.user('ann', caller)
  expect(net.documents.get('session acme/ann')?.value).toMatchObject({ node: idOf(1), epoch: 1 })
})

test('without a node there is no route', async () => {
  const net = routedNetwork(1)
  net.set(idOf(1), 'offline')
  const routing = net.open()
  await expect(routing.network.user('ann', caller)).rejects.toMatchObject({ code: 'no_node', retryable: true })
  await expect(routing.network.startInstance(spec(), caller)).rejects.toMatchObject({ code: 'no_node' })
})

test('a token allows what the key allows, and never to administer the node', async () => {
  const net = routedNetwork(1)
  const routing = net.open()
  const scopesFor = async (...scopes: ('execute' | 'read' | 'admin')[]) => {
    const { token } = await routing.network.user('ann', { tenant: 'acme', scopes })
    return claimsOf(token, net.time.now()).scopes
  }
  expect(await scopesFor('read')).toEqual(['read'])
  expect(await scopesFor('admin')).toEqual(['execute', 'read'])
})
