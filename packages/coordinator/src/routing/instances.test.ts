import { BrambleError, type InstanceSpec } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { caller, claimsOf, idOf, routedNetwork, spec } from '../testing/routed-network.ts'
import type { Routing } from './open-routing.ts'

const start = async (routing: Routing, input: Partial<InstanceSpec> = {}) =>
  await routing.network.startInstance(spec(input), caller)

test('an instance comes back on another node with what its last snapshot has; the old copy is let go', async () => {
  const net = routedNetwork(3, { snapshotEveryMs: 30_000 })
  const routing = net.open()
  const { instance, route } = await start(routing, { name: 'web' })
  expect(claimsOf(route.token, net.time.now())).toMatchObject({
    ...{ instance: instance.id, epoch: 1, node: route.node },
  })
  const old = net.node(route.node)
  const copy = old.held.get(instance.id)
  if (copy) copy.files = 'kept'
  await net.time.advance(35_000)
  if (copy) copy.files = 'kept and lost'

  net.lose(route.node)
  await net.time.advance(22_000)
  const next = await routing.network.instance('web', caller)
  expect(next.node).not.toBe(route.node)
  expect(next.instance).toBe(instance.id)
  expect(net.node(next.node).held.get(instance.id)).toMatchObject({ epoch: 2, files: 'kept' })

  // The old node comes back with its stale copy.
  expect(old.held.has(instance.id)).toBe(true)
  net.comeBack(routing, route.node)
  await net.time.advance(2_000)
  expect(old.held.has(instance.id)).toBe(false)
  expect(old.own).toEqual([])
  await net.time.advance(30_000)
  expect(net.node(next.node).own).toEqual([{ id: instance.id, epoch: 2 }])
  expect(net.node(next.node).held.get(instance.id)?.epoch).toBe(2)
  expect((await routing.network.instance(instance.id, caller)).node).toBe(next.node)
})

test('one that has no snapshot yet begins anew', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.lose(route.node)
  await net.time.advance(22_000)
  const next = await routing.network.instance(instance.id, caller)
  expect(net.node(next.node).asked).toEqual(['instances.start'])
})

test('from a node that drains it goes with all that it has', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { instance, route } = await start(routing)
  const copy = net.node(route.node).held.get(instance.id)
  if (copy) copy.files = 'the latest'
  net.set(route.node, 'draining')
  await net.time.advance(2_000)
  const next = await routing.network.instance(instance.id, caller)
  expect(next.node).not.toBe(route.node)
  expect(net.node(next.node).held.get(instance.id)?.files).toBe('the latest')
  expect(net.node(route.node).held.size).toBe(0)
  // Its clients were kept away before its files were kept.
  expect(copy?.fenced).toBe(true)
})

test('where no other node takes it, it stays, and its clients are let in again', async () => {
  const net = routedNetwork(1)
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.set(route.node, 'draining')
  await net.time.advance(500)
  const node = net.node(route.node)
  expect(node.asked.filter((method) => method === 'instances.snapshot')).toHaveLength(2)
  expect(node.held.get(instance.id)).toMatchObject({ epoch: 1, fenced: false })
  expect((await routing.network.instance(instance.id, caller)).node).toBe(route.node)
})

test('a node that comes back before another took its instance keeps it', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { instance, route } = await start(routing)
  const other = route.node === idOf(1) ? idOf(2) : idOf(1)
  net.node(other).refuses = new BrambleError('queue_full', { detail: 'no place' })
  net.lose(route.node)
  await net.time.advance(25_000)
  const waiting = expect(routing.network.instance(instance.id, caller)).rejects.toMatchObject({
    ...{ code: 'no_node', retryable: true, retryAfterMs: 1000 },
  })
  await net.time.advance(16_000)
  await waiting
  expect((await routing.network.instances({ limit: 10 }, 'acme')).items[0]).toMatchObject({ status: 'lost' })
  net.comeBack(routing, route.node)
  await net.time.advance(2_000)
  expect((await routing.network.instance(instance.id, caller)).node).toBe(route.node)
  expect(net.node(route.node).held.get(instance.id)?.epoch).toBe(1)
})

test('a request for the route waits for the instance that is on its way', async () => {
  const net = routedNetwork(2, { tickMs: 1_000_000 })
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.set(route.node, 'suspended')
  net.node(route.node).isConnected = false
  // Nothing has looked at it yet: the request itself brings it back.
  const next = await routing.network.instance(instance.id, caller)
  expect(next.node).not.toBe(route.node)
})

test('a node that refuses is passed over; what is wrong with the request is not tried elsewhere', async () => {
  const net = routedNetwork(3)
  const routing = net.open()
  const first = (await start(routing, { name: 'probe' })).route.node
  await routing.network.removeInstance('probe', 'acme')
  net.node(first).refuses = new BrambleError('queue_full', { detail: 'no place' })
  const second = await start(routing, { name: 'probe' })
  expect(second.route.node).not.toBe(first)
  expect((await routing.network.instances({ limit: 10 }, 'acme')).items).toMatchObject([
    { name: 'probe', status: 'live' },
  ])

  net.node(first).refuses = undefined
  for (const node of net.nodes.values()) node.refuses = new BrambleError('invalid_request', { detail: 'no such user' })
  const asked = () => [...net.nodes.values()].flatMap((node) => node.asked).filter((name) => name === 'instances.start')
  const before = asked().length
  await expect(start(routing, { name: 'other' })).rejects.toMatchObject({ code: 'invalid_request' })
  expect(asked().length).toBe(before + 1)
  expect(routing.counts.instances).toBe(1)
})

test('names are a tenant’s own; another tenant’s instances are not there', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { instance } = await start(routing, { name: 'web' })
  await expect(start(routing, { name: 'web' })).rejects.toMatchObject({ code: 'conflict' })
  const other = { tenant: 'other', scopes: ['execute'] as const }
  await routing.network.startInstance(spec({ name: 'web' }), other)
  await expect(routing.network.instance(instance.id, other)).rejects.toMatchObject({ code: 'not_found' })
  await expect(routing.network.removeInstance(instance.id, 'other')).rejects.toMatchObject({ code: 'not_found' })
  expect((await routing.network.instances({ limit: 10 }, 'other')).items).toHaveLength(1)
  await expect(start(routing, { volumes: [{ name: 'data', path: '/data', readOnly: false }] })).rejects.toMatchObject({
    code: 'invalid_request',
  })
})

test('what its tenant deleted on the node does not come back', async () => {
  const net = routedNetwork(2, { snapshotEveryMs: 30_000 })
  const routing = net.open()
  const { instance, route } = await start(routing)
  const copy = net.node(route.node).held.get(instance.id)
  if (copy) copy.gone = true
  await net.time.advance(32_000)
  await expect(routing.network.instance(instance.id, caller)).rejects.toMatchObject({ code: 'not_found' })
  expect(net.node(route.node).held.size).toBe(0)
  expect([...net.documents.keys()]).toEqual(['routing epoch'])
})

test('one that is deleted while its node is away is let go when the node is back', async () => {
  const net = routedNetwork(2)
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.lose(route.node)
  await routing.network.removeInstance(instance.id, 'acme')
  expect(net.node(route.node).held.size).toBe(1)
  net.comeBack(routing, route.node)
  await net.time.advance(2_000)
  expect(net.node(route.node).held.size).toBe(0)
})

test('old snapshots go once a newer one is written down', async () => {
  const net = routedNetwork(1, { snapshotEveryMs: 10_000 })
  const routing = net.open()
  const { instance, route } = await start(routing)
  const copy = net.node(route.node).held.get(instance.id)
  for (const files of ['one', 'two', 'three', 'four']) {
    if (copy) copy.files = files
    await net.time.advance(11_000)
  }
  expect([...net.store.values()]).toEqual(['three', 'four'])
  const { snapshotId } = await routing.network.snapshotInstance(instance.id, 'acme')
  expect(net.store.get(snapshotId ?? '')).toBe('four')
  await routing.network.removeInstance(instance.id, 'acme')
  expect(net.store.size).toBe(0)
})

test('a coordinator that died in the middle of a move leaves one copy', async () => {
  const net = routedNetwork(2)
  const first = net.open()
  const { instance, route } = await start(first)
  const target = route.node === idOf(1) ? idOf(2) : idOf(1)
  await first.close()
  // As it was when the target had made it, and nobody had written that down.
  const document = net.documents.get(`instance ${instance.id}`)
  const record = { ...(document?.value as object), move: { node: target, epoch: 2 } }
  net.documents.set(`instance ${instance.id}`, { kind: 'instance', id: instance.id, value: record })
  net.node(target).held.set(instance.id, { epoch: 2, files: 'moved', fenced: false })

  const second = net.open()
  second.nodeBack(route.node)
  second.nodeBack(target)
  await net.time.advance(2_000)
  expect((await second.network.instance(instance.id, caller)).node).toBe(target)
  expect(net.node(target).held.get(instance.id)?.epoch).toBe(2)
  await net.time.advance(2_000)
  expect(net.node(route.node).held.size).toBe(0)
})

test('instances take memory of a node, and no slot of its executions', async () => {
  const net = routedNetwork(1)
  const routing = net.open()
  await start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })
  await expect(start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })).rejects.toMatchObject({
    code: 'no_node',
  })
  const { items } = await routing.network.instances({ limit: 1 }, 'acme')
  await routing.network.removeInstance(items[0]?.id ?? '', 'acme')
  await start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })
})
