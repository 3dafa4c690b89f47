import {
  type Curve,
  createIdentity,
  generateSecretKey,
  type Identity,
  nobleCurve,
  signRouteToken,
} from '@bramble/identity'
import { instanceSpecSchema, type NodeId, newId, type RouteClaims, tenantOnNode } from '@bramble/protocol'
import { beforeEach, describe, expect, test } from 'vitest'
import { connectLive, Refused } from '../test/live-client.ts'
import { openTestNode, problemOf, type TestNode } from '../test/test-node.ts'
import { httpApp, openTestProxy } from './ports/testing/open-test-proxy.ts'
import { openRouteTokens, type RouteTokens } from './route-tokens.ts'

const NETWORK = `0x${'ab'.repeat(32)}`
const NODE = `0x${'1'.repeat(40)}` as NodeId
const key = createIdentity(generateSecretKey(), nobleCurve)
const stranger = createIdentity(generateSecretKey(), nobleCurve)

let verified = 0
let now = 0
let isHere = true
const curve: Curve = {
  ...nobleCurve,
  verify: (...signed) => {
    verified++
    return nobleCurve.verify(...signed)
  },
}
let publicKey = key.publicKey
const tokens: RouteTokens = {
  curve,
  joined: () => ({ network: NETWORK, publicKey, node: NODE }),
  now: () => now,
  allows: () => isHere,
}
beforeEach(() => {
  verified = 0
  now = Date.parse('2026-01-01T00:00:00Z')
  isHere = true
  publicKey = key.publicKey
})

const tokenOf = (changes: Partial<RouteClaims> = {}, by: Identity = key) =>
  signRouteToken(by, {
    ...{ network: NETWORK, node: NODE, tenant: 'acme', user: 'ann', epoch: 1, scopes: ['execute', 'read'] },
    expiresAtMs: now + 60_000,
    ...changes,
  })

describe('a token of a route', () => {
  test('is of the network, for this node and not expired; all others are refused', async () => {
    const finder = await openRouteTokens(tokens)
    const refused: Record<string, string> = {
      forged: tokenOf({}, stranger),
      'of another network': tokenOf({ network: `0x${'cd'.repeat(32)}` }),
      'for another node': tokenOf({ node: `0x${'2'.repeat(40)}` as NodeId }),
      expired: tokenOf({ expiresAtMs: now }),
      cut: tokenOf().slice(0, -1),
      empty: 'bramble_route_',
      'without a signature': tokenOf().replace(/\..*/, '.'),
    }
    for (const [name, token] of Object.entries(refused))
      expect(() => finder.find(token), name).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    expect(finder.find(tokenOf())).toEqual({
      ...{ tenant: tenantOnNode(NETWORK, 'acme'), keyId: 'network', scopes: ['execute', 'read'], quota: {} },
    })
    // Not a token at all: a key.
    expect(finder.find('bramble_0123456789012345678901234567890')).toBeUndefined()
  })

  test('costs its verification once, and is refused from the moment it expires', async () => {
    const finder = await openRouteTokens(tokens)
    const token = tokenOf()
    for (let i = 0; i < 5; i++) finder.find(token)
    expect(verified).toBe(1)
    now += 60_000
    expect(() => finder.find(token)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
  })

  test('is asked of each time whether what it is for is here', async () => {
    const finder = await openRouteTokens(tokens)
    const token = tokenOf({ user: undefined, instance: newId('instance') })
    finder.find(token)
    isHere = false
    expect(() => finder.find(token)).toThrow(expect.objectContaining({ code: 'no_node', retryable: true }))
    isHere = true
    finder.find(token)
  })

  test('of the network before counts no more', async () => {
    const finder = await openRouteTokens(tokens)
    const token = tokenOf()
    finder.find(token)
    publicKey = stranger.publicKey
    expect(() => finder.find(token)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
    const none = await openRouteTokens({ ...tokens, joined: () => undefined })
    expect(() => none.find(token)).toThrow(expect.objectContaining({ code: 'unauthorized' }))
  })

  test('never makes an administrator', async () => {
    const finder = await openRouteTokens(tokens)
    expect(finder.find(tokenOf({ scopes: ['admin', 'read'] }))?.scopes).toEqual(['read'])
  })
})

const spec = instanceSpecSchema.parse({})
const start = async (node: TestNode, tenant: string) =>
  await node.engine.instances.create(spec, { tenant, keyId: 'test' })

describe('a gateway', () => {
  test('takes it over HTTP for what is the tenant’s of the network, and for nothing of the node’s own', async () => {
    await using node = await openTestNode({ gateway: { routeTokens: tokens } })
    const own = await start(node, 'acme')
    const placed = await start(node, tenantOnNode(NETWORK, 'acme'))
    const others = await start(node, tenantOnNode(NETWORK, 'other'))
    const token = tokenOf()
    const list = await node.fetch('/api/v1/instances', { key: token })
    expect(((await list.json()) as { items: { id: string }[] }).items.map(({ id }) => id)).toEqual([placed.id])
    for (const { id } of [own, others])
      expect(await problemOf(await node.fetch(`/api/v1/instances/${id}`, { key: token }))).toMatchObject({
        code: 'not_found',
      })
    const ran = await node.fetch(`/api/v1/instances/${placed.id}/exec`, { json: { command: 'echo hi' }, key: token })
    expect(await ran.json()).toMatchObject({ stdout: 'hi\n' })
    const made = await node.fetch('/api/v1/keys', { json: { name: 'mine' }, key: token })
    expect(await problemOf(made)).toMatchObject({ code: 'forbidden' })
    expect((await node.fetch('/api/v1/instances', { key: tokenOf({}, stranger) })).status).toBe(401)
    expect(verified).toBe(2)
    // Keys go on as ever.
    expect((await node.fetch('/api/v1/keys')).status).toBe(200)
  })

  test('takes one of an instance for that instance alone', async () => {
    await using node = await openTestNode({ gateway: { routeTokens: tokens } })
    const tenant = tenantOnNode(NETWORK, 'acme')
    const mine = await start(node, tenant)
    const other = await start(node, tenant)
    const token = tokenOf({ user: undefined, instance: mine.id })
    const status = async (path: string) => (await node.fetch(path, { key: token })).status
    expect(await status(`/api/v1/instances/${mine.id}`)).toBe(200)
    expect(await status(`/api/v1/instances/${mine.id}/stats?x=1`)).not.toBe(403)
    for (const path of [
      '/api/v1/instances',
      `/api/v1/instances/${other.id}`,
      `/api/v1/instances/${mine.id}x`,
      `/api/v1/instances/%69${mine.id.slice(1)}`,
      `/api/v1/snapshots`,
    ])
      expect(await status(path), path).toBe(403)
  })

  test('takes it where it has no keys: then the network says who calls', async () => {
    await using node = await openTestNode({ gateway: { auth: false, routeTokens: tokens } })
    const placed = await start(node, tenantOnNode(NETWORK, 'acme'))
    const get = (headers: Record<string, string>) => fetch(`${node.url}/api/v1/instances/${placed.id}`, { headers })
    expect((await get({ authorization: `Bearer ${tokenOf()}` })).status).toBe(200)
    expect((await get({})).status).toBe(404)
    expect((await get({ authorization: 'Basic abc' })).status).toBe(404)
  })

  test('takes it for WebSockets, in the header or as `?token=`', async () => {
    await using node = await openTestNode({ gateway: { routeTokens: tokens } })
    const tenant = tenantOnNode(NETWORK, 'acme')
    const mine = await start(node, tenant)
    const other = await start(node, tenant)
    const token = tokenOf({ user: undefined, instance: mine.id })
    const path = `/api/v1/instances/${mine.id}/stream`
    for (const [query, given] of [
      ['', token],
      [`?token=${token}`, ''],
    ] as const) {
      using live = await connectLive(node, path + query, { key: given })
      live.ws.close()
      expect((await live.closed).code).toBe(1005)
    }
    for (const refused of [
      connectLive(node, `/api/v1/instances/${other.id}/stream`, { key: token }),
      connectLive(node, path, { key: tokenOf({ expiresAtMs: now }) }),
    ])
      await expect(refused).rejects.toBeInstanceOf(Refused)
  })
})

test('ports take it, and it never reaches the app', async () => {
  const proxy = await openTestProxy({ routeTokens: await openRouteTokens(tokens) })
  const port = await httpApp((request, response) =>
    response.end(JSON.stringify({ url: request.url, headers: request.headers })),
  )
  const { instanceId } = proxy.expose(port, { visibility: 'private', tenant: tenantOnNode(NETWORK, 'acme') })
  const path = `/p/${instanceId}/${port}/a`
  const ask = async (token: string) => await proxy.fetch(path, { headers: { authorization: `Bearer ${token}` } })
  for (const response of [
    await ask(tokenOf()),
    await ask(tokenOf({ instance: instanceId })),
    await proxy.fetch(`${path}?token=${tokenOf()}&x=1`),
  ]) {
    expect(response.status).toBe(200)
    expect(await response.text()).not.toContain('bramble_')
  }
  expect((await ask(tokenOf({ instance: newId('instance') }))).status).toBe(404)
  expect((await ask(tokenOf({ tenant: 'other' }))).status).toBe(404)
  expect((await ask(tokenOf({}, stranger))).status).toBe(401)
})
