import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fsStore, memoryStore, tieredStore } from '@bramble/blobs'
import {
  execRequestSchema,
  heldInstancesSchema,
  instanceSchema,
  instanceSpecSchema,
  newId,
  type RouteClaims,
  routeClaimsSchema,
  snapshotPlacedAnswerSchema,
  tenantOnNode,
} from '@bramble/protocol'
import { expect, onTestFinished, test } from 'vitest'
import { type NetworkInstancesOptions, openNetworkInstances } from '../src/instances/network-instances.ts'
import { type FakeNode, openFakeNode } from './fake-node.ts'

const NETWORK = `0x${'cd'.repeat(32)}`
const NODE = `0x${'1'.repeat(40)}`
const spec = instanceSpecSchema.parse({})
const { signal } = new AbortController()

const open = async (node: FakeNode, more: Partial<NetworkInstancesOptions> = {}) => {
  const path = join(node.dataDirectory, 'network.db')
  const instances = await openNetworkInstances({ engine: node.engine, path, network: () => NETWORK, ...more })
  onTestFinished(() => instances.close())
  instances.connected(true)
  const ask = async (method: string, params: object): Promise<unknown> =>
    await instances.requests[`instances.${method}`]?.(params, signal)
  /** As the network knows it: what is `own` is this node's. */
  const held = async (own: readonly { id: string; epoch: number }[] = [], fenceMs = 1000) =>
    heldInstancesSchema.parse(await ask('list', { keep: own, fenceMs })).items
  return { instances, ask, held }
}

const openNode = async (shared?: ReturnType<typeof memoryStore>) => {
  const node = await openFakeNode({}, shared && ((directory) => openTiers(directory, shared)))
  onTestFinished(() => node[Symbol.asyncDispose]())
  return node
}
const openTiers = async (directory: string, shared: ReturnType<typeof memoryStore>) => {
  await mkdir(directory, { recursive: true })
  const local = await fsStore({ directory })
  return await tieredStore({ local, shared: { ...shared, close: async () => {} }, directory: join(directory, 'tier') })
}

const sh = async ({ engine }: FakeNode, id: string, command: string): Promise<string> => {
  using lease = await engine.instances.use(id, tenantOnNode(NETWORK, 'acme'))
  return (await lease.exec(execRequestSchema.parse({ command }), { signal, stream: false }).result).stdout
}

const claims = (instance: string, epoch: number): RouteClaims =>
  routeClaimsSchema.parse({
    ...{ network: NETWORK, node: NODE, tenant: 'acme', instance, epoch, scopes: ['execute'], expiresAtMs: 1 },
  })

test('an instance begins once at its epoch, under the id and the tenant of the network', async () => {
  const node = await openNode()
  const { ask, held } = await open(node)
  const id = newId('instance')
  const params = { id, epoch: 5, tenant: 'acme', spec: { ...spec, name: 'web' } }
  const instance = instanceSchema.parse(await ask('start', params))
  expect(instance).toMatchObject({ id, name: 'web', status: 'running' })
  // Asked again, as after a connection that broke.
  expect(await ask('start', params)).toMatchObject({ id, createdAt: instance.createdAt })
  expect(await held()).toEqual([{ id, epoch: 5, fenced: false, status: 'running' }])
  await expect(node.engine.instances.get(id, 'acme')).rejects.toMatchObject({ code: 'not_found' })
  await expect(ask('start', { ...params, epoch: 4 })).rejects.toMatchObject({ code: 'conflict' })
  await expect(ask('start', { ...params, epoch: 0 })).rejects.toMatchObject({ code: 'invalid_request' })
  await expect(ask('start', { ...params, tenant: 'a.b' })).rejects.toMatchObject({ code: 'invalid_request' })
})

test('its files come back on another node from the store that both share', async () => {
  const shared = memoryStore()
  const one = await openNode(shared)
  const two = await openNode(shared)
  const first = await open(one)
  const second = await open(two)
  const id = newId('instance')
  await first.ask('start', { id, epoch: 1, tenant: 'acme', spec })
  await sh(one, id, 'printf kept > /data')
  const kept = snapshotPlacedAnswerSchema.parse(await first.ask('snapshot', { id, epoch: 1 }))
  expect(kept).toMatchObject({ status: 'running', shared: true })
  await sh(one, id, 'printf lost > /data')

  await second.ask('restore', { id, epoch: 2, tenant: 'acme', spec, snapshot: kept.snapshot })
  expect(await sh(two, id, 'cat /data')).toBe('kept')
  const again = snapshotPlacedAnswerSchema.parse(
    await second.ask('snapshot', { id, epoch: 2, forget: [kept.snapshot] }),
  )
  expect(again.snapshot).not.toBe(kept.snapshot)
  await expect(first.ask('snapshot', { id, epoch: 2 })).rejects.toMatchObject({ code: 'not_found' })
})

test('without a shared store nothing that was kept is called shared', async () => {
  const node = await openNode()
  const { ask } = await open(node)
  const id = newId('instance')
  await ask('start', { id, epoch: 1, tenant: 'acme', spec })
  expect(await ask('snapshot', { id, epoch: 1 })).toMatchObject({ status: 'running', shared: false })
  await node.engine.instances.stop(id, tenantOnNode(NETWORK, 'acme'))
  expect(await ask('snapshot', { id, epoch: 1 })).toEqual({ status: 'stopped', shared: false })
})

test('a stale copy is let go; one of a later epoch is not', async () => {
  const node = await openNode()
  const { ask, held } = await open(node)
  const id = newId('instance')
  await ask('start', { id, epoch: 3, tenant: 'acme', spec })
  await ask('release', { id, epoch: 2 })
  expect(await held()).toHaveLength(1)
  // A newer placement on the same node takes the place of the older one.
  await sh(node, id, 'printf old > /data')
  await ask('start', { id, epoch: 4, tenant: 'acme', spec })
  expect(await sh(node, id, 'cat /data || true')).toBe('')
  await ask('release', { id, epoch: 4 })
  await ask('release', { id, epoch: 4 })
  expect(await held()).toEqual([])
  await expect(node.engine.instances.get(id, tenantOnNode(NETWORK, 'acme'))).rejects.toMatchObject({
    code: 'not_found',
  })
})

test('what is asked about one instance while it begins waits for that', async () => {
  const node = await openNode()
  const { ask, held } = await open(node)
  const id = newId('instance')
  const begins = ask('start', { id, epoch: 1, tenant: 'acme', spec })
  await Promise.all([begins, ask('release', { id, epoch: 1 })])
  expect(await held()).toEqual([])
})

test('what could not be made leaves nothing', async () => {
  const node = await openNode()
  const { ask, held } = await open(node)
  const id = newId('instance')
  const params = { id, epoch: 1, tenant: 'acme', spec: { ...spec, image: 'nowhere' } }
  await expect(ask('start', params)).rejects.toMatchObject({ code: 'image_not_found' })
  expect(await held()).toEqual([])
})

test('what its tenant deleted is told as gone; a node that starts again knows what it holds', async () => {
  const node = await openNode()
  const first = await open(node)
  const [kept, deleted] = [newId('instance'), newId('instance')]
  for (const id of [kept, deleted]) await first.ask('start', { id, epoch: 1, tenant: 'acme', spec })
  await first.ask('snapshot', { id: kept, epoch: 1, fence: true })
  await node.engine.instances.remove(deleted, tenantOnNode(NETWORK, 'acme'))
  await first.instances.close()
  const second = await open(node)
  expect((await second.held()).sort((a, b) => (a.id < b.id ? -1 : 1))).toEqual([
    { id: kept, epoch: 1, fenced: true, status: 'running' },
    { id: deleted, epoch: 1, fenced: false, status: 'gone' },
  ])
})

test('tokens are for what is here, at its epoch or a later one, not fenced, while the network can be heard', async () => {
  const node = await openNode()
  let now = 0
  const { instances, ask, held } = await open(node, { now: () => now })
  const id = newId('instance')
  const own = [{ id, epoch: 2 }]
  await ask('start', { id, epoch: 2, tenant: 'acme', spec })
  expect(instances.allows(claims(id, 2))).toBe(true)
  await held()
  expect(instances.allows(claims(id, 2))).toBe(false)
  await held([{ id, epoch: 3 }])
  expect(instances.allows(claims(id, 2))).toBe(false)
  await held(own)
  expect(instances.allows(claims(id, 2))).toBe(true)
  expect(instances.allows(claims(id, 1))).toBe(false)
  expect(instances.allows(claims(newId('instance'), 2))).toBe(false)
  await ask('snapshot', { id, epoch: 2, fence: true })
  expect(instances.allows(claims(id, 2))).toBe(false)
  await ask('snapshot', { id, epoch: 2 })
  expect(instances.allows(claims(id, 2))).toBe(true)

  instances.connected(false)
  now = 999
  instances.connected(false)
  expect(instances.allows(claims(id, 2))).toBe(true)
  now = 1000
  expect(instances.allows(claims(id, 2))).toBe(false)
  // Users are another matter: nothing of theirs is in one place only.
  const { instance: _instance, ...ofUser } = claims(id, 2)
  expect(instances.allows({ ...ofUser, user: 'ann' })).toBe(true)
  // It is there again, and has not said yet whether the instance is still here.
  instances.connected(true)
  expect(instances.allows(claims(id, 2))).toBe(false)
  await held(own)
  expect(instances.allows(claims(id, 2))).toBe(true)
})

test('before the first session it is not known whether what is here is still the network’s', async () => {
  const node = await openNode()
  const first = await open(node)
  const id = newId('instance')
  await first.ask('start', { id, epoch: 1, tenant: 'acme', spec })
  await first.instances.close()
  const path = join(node.dataDirectory, 'network.db')
  const second = await openNetworkInstances({ engine: node.engine, path, network: () => NETWORK })
  onTestFinished(() => second.close())
  second.connected(true)
  expect(second.allows(claims(id, 1))).toBe(false)
  await second.requests['instances.list']?.({ keep: [{ id, epoch: 1 }], fenceMs: 1000 }, signal)
  expect(second.allows(claims(id, 1))).toBe(true)
})
