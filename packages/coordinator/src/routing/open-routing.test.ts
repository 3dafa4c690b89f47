import { createIdentity, nobleCurve, readRouteToken } from '@bramble/identity'
import {
  BrambleError,
  type InstanceSpec,
  instanceSpecSchema,
  listPlacedSchema,
  type NodeId,
  type NodeStatus,
  nodeReportSchema,
  releasePlacedSchema,
  restorePlacedSchema,
  snapshotPlacedSchema,
  startPlacedSchema,
} from '@bramble/protocol'
import { afterEach, expect, test } from 'vitest'
import { nodeTable } from '../placement/node-table.ts'
import type { Document } from '../store/store.ts'
import type { RoutingLimits } from './limits.ts'
import { openRouting, type Routing } from './open-routing.ts'

const NETWORK = `0x${'ab'.repeat(32)}`
const identity = createIdentity(new Uint8Array(32).fill(7), nobleCurve)
const caller = { tenant: 'acme', scopes: ['execute', 'read'] as const }
const idOf = (index: number): NodeId => `0x${index.toString(16).padStart(40, '0')}` as NodeId
const spec = (input: Partial<InstanceSpec> = {}) =>
  instanceSpecSchema.parse({ image: 'base', resources: { memoryMb: 256 }, ...input })

/** A clock that stands still but when it is told to go on. */
const virtualTime = () => {
  let now = Date.parse('2026-01-01T00:00:00Z')
  const timers = new Set<{ at: number; work: () => void }>()
  const settle = async () => {
    for (let i = 0; i < 200; i++) await Promise.resolve()
  }
  return {
    now: () => now,
    schedule: (ms: number, work: () => void) => {
      const timer = { at: now + ms, work }
      timers.add(timer)
      return () => void timers.delete(timer)
    },
    advance: async (ms: number) => {
      const end = now + ms
      for (;;) {
        await settle()
        const [next] = [...timers].filter(({ at }) => at <= end).sort((left, right) => left.at - right.at)
        if (!next) break
        timers.delete(next)
        now = Math.max(now, next.at)
        next.work()
      }
      now = end
      await settle()
    },
  }
}

interface Held {
  epoch: number
  files: string
  fenced: boolean
  gone?: boolean
}

/** What a worker answers, over instances whose files are a text; all nodes share one store of snapshots. */
class Node {
  readonly held = new Map<string, Held>()
  readonly asked: string[] = []
  /** What it was told last to be its own. */
  own: readonly { id: string; epoch: number }[] = []
  isConnected = true
  refuses: BrambleError | undefined
  readonly store: Map<string, string>

  constructor(store: Map<string, string>) {
    this.store = store
  }

  answer(method: string, params: unknown): unknown {
    this.asked.push(method)
    if (this.refuses && method !== 'instances.list') throw this.refuses
    switch (method) {
      case 'instances.start':
        return this.#make(startPlacedSchema.parse(params), '')
      case 'instances.restore': {
        const request = restorePlacedSchema.parse(params)
        const files = this.store.get(request.snapshot)
        if (files === undefined) throw new BrambleError('not_found', { detail: 'no such snapshot' })
        return this.#make(request, files)
      }
      case 'instances.snapshot': {
        const { id, epoch, fence, forget } = snapshotPlacedSchema.parse(params)
        const held = this.held.get(id)
        if (held?.epoch !== epoch) throw new BrambleError('not_found', { detail: 'it is not held' })
        held.fenced = fence
        for (const snapshot of forget) this.store.delete(snapshot)
        const snapshot = Buffer.from(`${id.slice(-8)}${held.files}`)
          .toString('hex')
          .padEnd(64, '0')
          .slice(0, 64)
        this.store.set(snapshot, held.files)
        return { status: 'running', snapshot, shared: true }
      }
      case 'instances.release': {
        const { id, epoch, forget } = releasePlacedSchema.parse(params)
        const held = this.held.get(id)
        if (held && held.epoch <= epoch) {
          this.held.delete(id)
          for (const snapshot of forget) this.store.delete(snapshot)
        }
        return {}
      }
      case 'instances.list':
        this.own = listPlacedSchema.parse(params).keep
        return {
          items: [...this.held].map(([id, { epoch, fenced, gone }]) => ({
            ...{ id, epoch, fenced },
            status: gone ? 'gone' : 'running',
          })),
        }
      default:
        throw new BrambleError('not_found', { detail: method })
    }
  }

  #make({ id, epoch, spec }: { id: string; epoch: number; spec: InstanceSpec }, files: string) {
    this.held.set(id, { epoch, files, fenced: false })
    return {
      ...{ id, status: 'running', image: spec.image, imageDigest: 'sha256:0', runtime: 'fake' },
      ...{ resources: spec.resources, network: spec.network, volumes: [], caches: [], labels: {} },
      ...{ createdAt: new Date(0).toISOString(), expiresAt: null, idleTtlMs: null },
      ...{ idleAction: spec.idleAction, autoResume: spec.autoResume },
    }
  }
}

const ends: Routing[] = []
afterEach(async () => {
  for (const one of ends.splice(0)) await one.close()
})

const network = (count: number, limits: Partial<RoutingLimits> = {}) => {
  const time = virtualTime()
  const documents = new Map<string, Document>()
  const table = nodeTable({ random: () => 0.5 })
  const store = new Map<string, string>()
  const nodes = new Map<NodeId, Node>()
  /** Noted and not yet durable. */
  let gathered: Document[] = []
  const set = (id: NodeId, status: NodeStatus, report: { cpus?: number; memoryMb?: number } = {}) =>
    table.set({
      ...{ id, owner: id, subnet: id, status, established: true, agreements: 10, trust: 1, speed: 1, maxRunning: 8 },
      report: nodeReportSchema.parse({
        ...{ version: '1', cpus: 4, memoryMb: 8192, diskMb: 1000, slots: 8, isolation: ['container'] },
        ...{ machine: id, platform: 'test', url: `http://${id}.test`, images: [{ name: 'base', digest: 'sha256:0' }] },
        ...report,
      }),
    })
  for (let i = 1; i <= count; i++) {
    nodes.set(idOf(i), new Node(store))
    set(idOf(i), 'online')
  }
  const open = (): Routing => {
    const routing = openRouting({
      ...{ network: NETWORK, identity, table, now: time.now, schedule: time.schedule, limits },
      nodes: () => [...nodes.keys()].map((id) => ({ id })),
      note: (document) => gathered.push(structuredClone(document)),
      durable: async () => {
        const batch = gathered
        gathered = []
        await Promise.resolve()
        for (const document of batch) {
          const key = `${document.kind} ${document.id}`
          if (document.value === undefined) documents.delete(key)
          else documents.set(key, document)
        }
      },
      request: async (id, method, params, { signal } = {}) => {
        const node = nodes.get(id)
        signal?.throwIfAborted()
        if (!node?.isConnected) throw new BrambleError('no_node', { detail: 'the node went away' })
        await Promise.resolve()
        return node.answer(method, structuredClone(params))
      },
    })
    routing.load(documents.values())
    ends.push(routing)
    return routing
  }
  const node = (id: NodeId): Node => {
    const found = nodes.get(id)
    if (!found) throw new Error(`no node ${id}`)
    return found
  }
  const lose = (id: NodeId) => {
    node(id).isConnected = false
    set(id, 'suspect')
  }
  const comeBack = (routing: Routing, id: NodeId) => {
    node(id).isConnected = true
    set(id, 'online')
    routing.nodeBack(id)
  }
  return { time, documents, nodes, node, set, open, lose, comeBack, store }
}

test('a user stays with its node, moves when it is gone, and does not go back', async () => {
  const net = network(5)
  const routing = net.open()
  const first = await routing.network.user('ann', caller)
  expect(first.url).toBe(`http://${first.node}.test`)
  const claims = readRouteToken(first.token, identity.publicKey, nobleCurve, net.time.now())
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
  expect(readRouteToken(second.token, identity.publicKey, nobleCurve, net.time.now()).epoch).toBe(2)

  net.comeBack(routing, first.node)
  await net.time.advance(5_000)
  expect((await routing.network.user('ann', caller)).node).toBe(second.node)
})

test('users of a node that drains stay until it is drained; new ones go elsewhere', async () => {
  const net = network(2)
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
  const net = network(10)
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
  const net = network(8, { sessionIdleMs: 60_000 })
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
  expect(readRouteToken(late.token, identity.publicKey, nobleCurve, net.time.now()).epoch).toBe(4)
})

test('no more users are held than allowed: the one that was away the longest goes', async () => {
  const net = network(2, { maxSessions: 3 })
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
  const net = network(1)
  const routing = net.open()
  await routing.network.user('ann', caller)
  expect(net.documents.get('session acme/ann')?.value).toMatchObject({ node: idOf(1), epoch: 1 })
})

test('without a node there is no route', async () => {
  const net = network(1)
  net.set(idOf(1), 'offline')
  const routing = net.open()
  await expect(routing.network.user('ann', caller)).rejects.toMatchObject({ code: 'no_node', retryable: true })
  await expect(routing.network.startInstance(spec(), caller)).rejects.toMatchObject({ code: 'no_node' })
})

test('a token allows what the key allows, and never to administer the node', async () => {
  const net = network(1)
  const routing = net.open()
  const scopesFor = async (...scopes: ('execute' | 'read' | 'admin')[]) => {
    const { token } = await routing.network.user('ann', { tenant: 'acme', scopes })
    return readRouteToken(token, identity.publicKey, nobleCurve, net.time.now()).scopes
  }
  expect(await scopesFor('read')).toEqual(['read'])
  expect(await scopesFor('admin')).toEqual(['execute', 'read'])
})

const start = async (routing: Routing, input: Partial<InstanceSpec> = {}) =>
  await routing.network.startInstance(spec(input), caller)

test('an instance comes back on another node with what its last snapshot has; the old copy is let go', async () => {
  const net = network(3, { snapshotEveryMs: 30_000 })
  const routing = net.open()
  const { instance, route } = await start(routing, { name: 'web' })
  expect(readRouteToken(route.token, identity.publicKey, nobleCurve, net.time.now())).toMatchObject({
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
  const net = network(2)
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.lose(route.node)
  await net.time.advance(22_000)
  const next = await routing.network.instance(instance.id, caller)
  expect(net.node(next.node).asked).toEqual(['instances.start'])
})

test('from a node that drains it goes with all that it has', async () => {
  const net = network(2)
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
  const net = network(1)
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
  const net = network(2)
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
  const net = network(2, { tickMs: 1_000_000 })
  const routing = net.open()
  const { instance, route } = await start(routing)
  net.set(route.node, 'suspended')
  net.node(route.node).isConnected = false
  // Nothing has looked at it yet: the request itself brings it back.
  const next = await routing.network.instance(instance.id, caller)
  expect(next.node).not.toBe(route.node)
})

test('a node that refuses is passed over; what is wrong with the request is not tried elsewhere', async () => {
  const net = network(3)
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
  const net = network(2)
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
  const net = network(2, { snapshotEveryMs: 30_000 })
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
  const net = network(2)
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
  const net = network(1, { snapshotEveryMs: 10_000 })
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
  const net = network(2)
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
  const net = network(1)
  const routing = net.open()
  await start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })
  await expect(start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })).rejects.toMatchObject({
    code: 'no_node',
  })
  const { items } = await routing.network.instances({ limit: 1 }, 'acme')
  await routing.network.removeInstance(items[0]?.id ?? '', 'acme')
  await start(routing, { resources: { ...spec().resources, memoryMb: 6000 } })
})
