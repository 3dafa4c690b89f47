import {
  branchesResponseSchema,
  branchSchema,
  type Instance,
  instanceSchema,
  mergeResponseSchema,
  pageSchema,
  type Snapshot,
  snapshotDiffSchema,
  snapshotSchema,
  storeCollectionSchema,
  storeStatsSchema,
} from '@bramble/protocol'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { allEvents, openTestNode, problemOf, type TestNode } from '../../test/test-node.ts'

let node: TestNode
let other: TestNode
beforeAll(async () => {
  ;[node, other] = await Promise.all([openTestNode(), openTestNode()])
})
afterAll(async () => {
  await Promise.all([node[Symbol.asyncDispose](), other[Symbol.asyncDispose]()])
})

const snapshots = '/api/v1/snapshots'
const start = async (spec: object = {}, on = node): Promise<Instance> => {
  const response = await on.fetch('/api/v1/instances', { json: spec })
  expect(response.status, await response.clone().text()).toBe(201)
  return instanceSchema.parse(await response.json())
}
const sh = async (instance: string, command: string, on = node): Promise<string> => {
  const response = await on.fetch(`/api/v1/instances/${instance}/exec`, { json: { command } })
  const { exitCode, stdout, stderr } = (await response.json()) as { exitCode: number; stdout: string; stderr: string }
  expect({ command, exitCode, stderr }).toMatchObject({ exitCode: 0 })
  return stdout
}
const take = async (instance: string, body: object = {}): Promise<Snapshot> => {
  const response = await node.fetch(`/api/v1/instances/${instance}/snapshot`, { json: { memory: false, ...body } })
  expect(response.status, await response.clone().text()).toBe(201)
  return snapshotSchema.parse(await response.json())
}
const restore = async (ref: string, body: object = {}, on = node): Promise<Instance> => {
  const response = await on.fetch(`${snapshots}/${ref}/restore`, { json: body })
  expect(response.status, await response.clone().text()).toBe(201)
  return instanceSchema.parse(await response.json())
}

test('a snapshot is taken, found, changed, compared, restored and removed', async () => {
  const box = await start({ name: 'kept' })
  await sh(box.id, 'echo one > /tmp/file')
  const response = await node.fetch(snapshots, { json: { instanceId: 'kept', name: 'first', labels: { a: 'b' } } })
  expect(response.status).toBe(201)
  const first = snapshotSchema.parse(await response.json())
  expect(first).toMatchObject({
    name: 'first',
    origin: 'instance',
    source: box.id,
    labels: { a: 'b' },
    expiresAt: null,
  })
  await sh(box.id, 'echo more >> /tmp/file; echo two > /tmp/other')
  // Without a body: with all that it has by default.
  const second = snapshotSchema.parse(
    await (await node.fetch(`/api/v1/instances/${box.id}/snapshot`, { method: 'POST' })).json(),
  )
  expect(second.id).not.toBe(first.id)

  for (const ref of [first.id, first.id.slice(0, 8), 'first'])
    expect(snapshotSchema.parse(await (await node.fetch(`${snapshots}/${ref}`)).json())).toEqual(first)
  const listed = async (query: string) =>
    pageSchema(snapshotSchema).parse(await (await node.fetch(`${snapshots}?${query}`)).json())
  expect((await listed(`source=${box.id}`)).items.map(({ id }) => id)).toEqual([second.id, first.id])
  expect((await listed('label=a=b')).items.map(({ id }) => id)).toEqual([first.id])
  expect((await listed('name=first')).items.map(({ id }) => id)).toEqual([first.id])
  const page = await listed(`source=${box.id}&limit=1`)
  expect((await listed(`source=${box.id}&limit=1&cursor=${page.nextCursor}`)).items.map(({ id }) => id)).toEqual([
    first.id,
  ])

  const diff = await node.fetch(`${snapshots}/first/diff/${second.id}`)
  const { items, totals } = snapshotDiffSchema.parse(await diff.json())
  const files = items.filter(({ type }) => type === 'file').map(({ path, change }) => `${change} ${path}`)
  expect(files).toEqual(['changed tmp/file', 'added tmp/other'])
  expect(totals).toMatchObject({ added: 1, removed: 0 })

  const patched = await node.fetch(`${snapshots}/first`, {
    method: 'PATCH',
    json: { name: 'renamed', labels: {}, ttlMs: 3_600_000 },
  })
  const changed = snapshotSchema.parse(await patched.json())
  expect(changed).toMatchObject({ id: first.id, name: 'renamed', labels: {}, expiresAt: expect.any(String) })
  const nameless = await node.fetch(`${snapshots}/renamed`, { method: 'PATCH', json: { name: null, ttlMs: null } })
  expect(snapshotSchema.parse(await nameless.json())).toMatchObject({ id: first.id, expiresAt: null })

  const again = await restore(first.id, { name: 'again' })
  expect(again).toMatchObject({ name: 'again', status: 'running', parent: first.id })
  expect(await sh('again', 'cat /tmp/file')).toBe('one\n')
  expect(await sh('kept', 'cat /tmp/file')).toBe('one\nmore\n')

  expect((await node.fetch(`${snapshots}/${first.id}`, { method: 'DELETE' })).status).toBe(204)
  const gone = await node.fetch(`${snapshots}/${first.id}`, { method: 'DELETE' })
  expect(await problemOf(gone)).toMatchObject({ code: 'not_found' })
  expect(await sh('again', 'cat /tmp/file')).toBe('one\n')
})

test('a snapshot repeated under an idempotency key is taken once', async () => {
  const box = await start()
  const ask = () =>
    node.fetch(snapshots, { json: { instanceId: box.id, name: 'once' }, headers: { 'idempotency-key': 'take-1' } })
  const [first, second] = [await ask(), await ask()]
  expect(second.headers.get('idempotent-replayed')).toBe('true')
  expect(await second.text()).toBe(await first.text())
  const { items } = pageSchema(snapshotSchema).parse(await (await node.fetch(`${snapshots}?name=once`)).json())
  expect(items).toHaveLength(1)
})

test('nobody sees another tenant’s, and a key that reads changes nothing', async () => {
  const box = await start({ name: 'mine' })
  const { id } = await take(box.id, { name: 'secret' })
  const { key } = await node.newKey({ tenant: 'other', scopes: ['execute', 'read'] })
  for (const [method, path, json] of [
    ['GET', `${snapshots}/${id}`, undefined],
    ['GET', `${snapshots}/${id}/export`, undefined],
    ['GET', `${snapshots}/${id}/diff/${id}`, undefined],
    ['DELETE', `${snapshots}/${id}`, undefined],
    ['PATCH', `${snapshots}/${id}`, { name: 'x' }],
    ['POST', `${snapshots}/${id}/restore`, {}],
    ['POST', '/api/v1/branches', { parent: id, count: 1 }],
    ['POST', '/api/v1/branches', { parent: box.id, count: 1 }],
    ['POST', `/api/v1/instances/${box.id}/branch`, { count: 1 }],
    ['POST', `/api/v1/instances/${box.id}/snapshot`, {}],
    ['POST', '/api/v1/merge', { branches: [id, box.id] }],
    ['POST', '/api/v1/fork', { parent: id, command: 'true' }],
  ] as const) {
    const response = await node.fetch(path, { method, key, ...(json && { json }) })
    expect({ method, path, code: (await problemOf(response)).code }).toEqual({ method, path, code: 'not_found' })
  }
  expect(await (await node.fetch(snapshots, { key })).json()).toEqual({ items: [], nextCursor: null })
  expect(await (await node.fetch('/api/v1/branches', { key })).json()).toEqual({ items: [], nextCursor: null })

  const { key: reader } = await node.newKey({ scopes: ['read'] })
  for (const [method, path] of [
    ['POST', snapshots],
    ['PATCH', `${snapshots}/${id}`],
    ['DELETE', `${snapshots}/${id}`],
    ['POST', `${snapshots}/${id}/restore`],
    ['POST', `${snapshots}/import`],
    ['POST', '/api/v1/branches'],
    ['POST', '/api/v1/merge'],
    ['POST', '/api/v1/fork'],
    ['GET', '/api/v1/store'],
    ['POST', '/api/v1/store/collect'],
  ] as const)
    expect(await problemOf(await node.fetch(path, { method, key: reader }))).toMatchObject({ code: 'forbidden' })
  expect((await node.fetch(`${snapshots}/${id}`, { key: reader })).status).toBe(200)
})

test('an export is one file, which another node imports, whole or not at all', async () => {
  const box = await start()
  await sh(box.id, 'echo carried > /tmp/file')
  const snapshot = await take(box.id, { name: 'to-carry' })
  const response = await node.fetch(`${snapshots}/to-carry/export?memory=false`)
  expect(response.headers.get('content-disposition')).toBe('attachment; filename="to-carry.bramble"')
  const file = new Uint8Array(await response.arrayBuffer())

  const send = (body: Uint8Array<ArrayBuffer>, query = '', key = other.key) =>
    other.fetch(`${snapshots}/import?${query}`, {
      method: 'POST',
      body,
      key,
      headers: { 'content-type': 'application/octet-stream' },
    })
  const broken = file.slice()
  broken[broken.length >> 1] = (broken[broken.length >> 1] ?? 0) ^ 0xff
  for (const bytes of [
    broken,
    file.slice(0, file.length >> 1),
    new Uint8Array(0),
    new TextEncoder().encode('no snapshot'),
  ])
    expect(await problemOf(await send(bytes))).toMatchObject({ code: 'import_refused' })
  expect(await (await other.fetch(snapshots)).json()).toMatchObject({ items: [] })

  const { key } = await other.newKey({ scopes: ['execute', 'read'] })
  expect(await problemOf(await send(file, 'trustMemory=true', key))).toMatchObject({ code: 'forbidden' })
  const imported = await send(file, 'name=carried', key)
  expect(imported.status).toBe(201)
  expect(snapshotSchema.parse(await imported.json())).toMatchObject({
    id: snapshot.id,
    name: 'carried',
    origin: 'import',
    filesBytes: snapshot.filesBytes,
  })
})

test('an import past the bound ends at once', async () => {
  await using small = await openTestNode({ gateway: { limits: { maxSnapshotFileBytes: 1000 } } })
  const response = await small.fetch(`${snapshots}/import`, {
    method: 'POST',
    body: new Uint8Array(5000),
    headers: { 'content-type': 'application/octet-stream' },
  })
  expect(await problemOf(response)).toMatchObject({ code: expect.stringMatching(/^(body_too_large|import_refused)$/) })
})

test('branches continue from an instance, which goes on; each runs its own command', async () => {
  const box = await start({ name: 'trunk' })
  await sh('trunk', 'echo base > /tmp/file')
  const made = await node.fetch('/api/v1/branches', {
    json: { parent: 'trunk', commands: ['echo a >> /tmp/file; cat /tmp/file', 'cat /tmp/file; exit 3'], memory: false },
  })
  expect(made.status, await made.clone().text()).toBe(201)
  const { items } = branchesResponseSchema.parse(await made.json())
  expect(items.map(({ result }) => [result?.exitCode, result?.stdout])).toEqual([
    [0, 'base\na\n'],
    [3, 'base\n'],
  ])
  expect(items).toMatchObject([
    { parent: box.id, parentKind: 'instance', memory: false, instance: { status: 'running', parent: box.id } },
    { parent: box.id },
  ])
  expect(await sh('trunk', 'cat /tmp/file')).toBe('base\n')

  const [first = '', second = ''] = items.map(({ instanceId }): string => instanceId)
  const child = await node.fetch(`/api/v1/instances/${first}/branch`, { json: { count: 1, memory: false } })
  const [grandchild] = branchesResponseSchema.parse(await child.json()).items
  const tree = async (query: string) =>
    pageSchema(branchSchema)
      .parse(await (await node.fetch(`/api/v1/branches?${query}`)).json())
      .items.map(({ instanceId }): string => instanceId)
      .toSorted()
  expect(await tree(`parent=${box.id}`)).toEqual([first, second, `${grandchild?.instanceId}`].toSorted())
  expect(await tree(`parent=${first}`)).toEqual([grandchild?.instanceId])

  for (const json of [{ parent: box.id }, { parent: box.id, count: 1, commands: ['true'] }])
    expect(await problemOf(await node.fetch('/api/v1/branches', { json }))).toMatchObject({ code: 'invalid_request' })
})

test('a merge folds branches into a snapshot; what they do not agree on is listed, or settled', async () => {
  const box = await start()
  await sh(box.id, 'echo base > /tmp/shared')
  const made = await node.fetch('/api/v1/branches', {
    json: {
      parent: box.id,
      memory: false,
      commands: ['echo l > /tmp/left; echo left > /tmp/shared', 'echo r > /tmp/right; echo right > /tmp/shared'],
    },
  })
  const branches = branchesResponseSchema.parse(await made.json()).items.map(({ instanceId }) => instanceId)
  const merge = async (json: object) => {
    const response = await node.fetch('/api/v1/merge', { json: { branches, ...json } })
    expect(response.status, await response.clone().text()).toBe(200)
    return mergeResponseSchema.parse(await response.json())
  }
  const refused = await merge({})
  expect(refused.snapshot).toBeUndefined()
  expect(refused.conflicts).toMatchObject([{ path: 'tmp/shared', kind: 'content', branches }])

  const { snapshot, conflicts } = await merge({ strategy: 'theirs', name: 'merged', labels: { by: 'test' } })
  expect(conflicts).toMatchObject([{ path: 'tmp/shared', settled: 'theirs' }])
  expect(snapshot).toMatchObject({ name: 'merged', origin: 'merge', labels: { by: 'test' } })
  const folded = await restore('merged')
  expect(await sh(folded.id, 'cat /tmp/left /tmp/right /tmp/shared')).toBe('l\nr\nright\n')
})

test('a fork is an execution in a branch, answered or streamed', async () => {
  const box = await start()
  await sh(box.id, 'echo here > /tmp/file')
  const json = { parent: box.id, command: 'cat /tmp/file; echo gone > /tmp/file' }
  const answer = await node.fetch('/api/v1/fork', { json })
  expect(await answer.json()).toMatchObject({ mode: 'branched', status: 'succeeded', stdout: 'here\n' })
  const events = await allEvents(await node.fetch('/api/v1/fork', { json, headers: { accept: 'text/event-stream' } }))
  expect(events.map(({ event }) => event)).toEqual(expect.arrayContaining(['started', 'stdout', 'result']))
  expect(await sh(box.id, 'cat /tmp/file')).toBe('here\n')
  for (const wrong of [{ command: 'true' }, { ...json, mode: 'cached' }])
    expect(await problemOf(await node.fetch('/api/v1/fork', { json: wrong }))).toMatchObject({
      code: 'invalid_request',
    })
})

test('a stream takes checkpoints, one at a time, and says what became of each', async () => {
  const box = await start()
  const url = `${node.url.replace('http', 'ws')}/api/v1/instances/${box.id}/stream?processes=false`
  const ws = new WebSocket(url, { headers: { authorization: `Bearer ${node.key}` } })
  const answers: Record<string, unknown>[] = []
  try {
    await new Promise((resolve, reject) => ws.on('open', resolve).on('error', reject))
    const both = new Promise<void>((resolve) =>
      ws.on('message', (data: Buffer) => {
        const message = JSON.parse(data.toString())
        if (message.type === 'checkpoint' || message.type === 'error') answers.push(message)
        if (answers.length === 2) resolve()
      }),
    )
    ws.send(JSON.stringify({ type: 'checkpoint', id: 'one', name: 'by-stream', memory: false }))
    ws.send(JSON.stringify({ type: 'checkpoint', id: 'two' }))
    await both
  } finally {
    ws.terminate()
  }
  const snapshot = snapshotSchema.parse(await (await node.fetch(`${snapshots}/by-stream`)).json())
  expect(answers).toEqual(
    expect.arrayContaining([
      { type: 'checkpoint', id: 'one', snapshotId: snapshot.id },
      { type: 'error', id: 'two', code: 'conflict', message: expect.any(String) },
    ]),
  )
})

test('an instance that is paused with a snapshot goes on from it', async () => {
  const box = await start()
  await sh(box.id, 'echo saved > /tmp/file')
  const paused = await node.fetch(`/api/v1/instances/${box.id}/pause`, { json: { snapshot: true } })
  expect(paused.status, await paused.clone().text()).toBe(200)
  const { status, snapshotId } = instanceSchema.parse(await paused.json())
  expect(status).toBe('paused')
  expect((await node.fetch(`${snapshots}/${snapshotId}`)).status).toBe(200)
  expect(await sh(box.id, 'cat /tmp/file')).toBe('saved\n')
})

test('the store is shown and collected; snapshots and branches are counted', async () => {
  const box = await start()
  await take(box.id)
  await node.fetch(`/api/v1/instances/${box.id}/branch`, { json: { count: 1, memory: false } })
  const stats = storeStatsSchema.parse(await (await node.fetch('/api/v1/store')).json())
  expect(stats.blobs).toBeGreaterThan(0)
  expect(stats.storedBytes).toBeGreaterThan(0)
  const collected = await node.fetch('/api/v1/store/collect', { method: 'POST' })
  expect(storeCollectionSchema.parse(await collected.json()).blobs).toBeGreaterThanOrEqual(0)
  expect((await node.fetch('/api/v1/store/collect?graceMs=60000', { method: 'POST' })).status).toBe(200)
  const hasty = await node.fetch('/api/v1/store/collect?graceMs=0', { method: 'POST' })
  expect(await problemOf(hasty)).toMatchObject({ code: 'invalid_request', detail: expect.stringContaining('graceMs') })
  const text = await (await node.fetch('/metrics')).text()
  expect(text).toMatch(/^bramble_snapshots_total\{origin="instance"\} [1-9]/m)
  expect(text).toMatch(/^bramble_snapshot_frozen_seconds_count [1-9]/m)
  expect(text).toMatch(/^bramble_branch_seconds_count [1-9]/m)
})
