import { randomBytes } from 'node:crypto'
import type { BranchesResponse, ExecutionResult, Instance, Snapshot, TenantBlob } from '@bramble/protocol'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { call } from './time-node.ts'

/** Two tenants on one node: neither has, sees, counts or changes a state, a blob or a result of the other. */

const SECRET = 'the secret of tenant a'

let skip: string | undefined
let node: LiveNode
let a = ''
let b = ''
let box: Instance
let own: Instance
let branch = ''
let state: Snapshot
let execution: ExecutionResult
let blob: TenantBlob

beforeAll(async () => {
  const opened = await openLiveNode()
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  a = (await node.newKey({ tenant: 'a' })).key
  b = (await node.newKey({ tenant: 'b' })).key
  const key = a
  box = await node.start({ name: 'box' }, a)
  own = await node.start({ name: 'own' }, b)
  await node.sh(box.id, `echo '${SECRET}' > /root/file`, a)
  state = await call(node, 'POST', 'snapshots', { instanceId: 'box', name: 'state', memory: false }, { key })
  const branched = await call<BranchesResponse>(
    node,
    'POST',
    'branches',
    { parent: 'box', count: 1, memory: false },
    { key },
  )
  branch = branched.items[0]?.instanceId ?? ''
  const command = `echo '${SECRET}' > /root/file`
  execution = await call(node, 'POST', 'execute', { command, mode: 'checkpointed' }, { key })
  blob = await call(node, 'PUT', 'blobs', undefined, { key, body: SECRET })
}, 60_000)
afterAll(() => node?.[Symbol.asyncDispose]())
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

const ask = (method: string, path: string, json?: unknown, key = b) =>
  node.ask(method, `/api/v1/${path}`, { key, ...(json !== undefined && { json }) })

describe('what is another’s', () => {
  test('cannot be named as what to begin from, to merge, to compare or to keep', async () => {
    await call(node, 'POST', 'snapshots', { instanceId: 'own', name: 'mine', memory: false }, { key: b })
    const theirs = [box.id, 'box', branch, state.id, state.id.slice(0, 12), 'state', execution.id]
    const requests = (ref: string): [string, string, unknown?][] => [
      ['POST', 'branches', { parent: ref, count: 1 }],
      ['POST', 'branches', { parent: ref, commands: ['cat /root/file'] }],
      ['POST', 'fork', { parent: ref, command: 'cat /root/file' }],
      ['POST', 'execute', { mode: 'branched', parent: ref, command: 'cat /root/file' }],
      ['POST', 'merge', { branches: ['own', ref] }],
      ['POST', 'merge', { branches: ['own'], base: ref }],
      ...(ref.startsWith('exe') ? [] : ([['POST', 'snapshots', { instanceId: ref }]] as [string, string, unknown][])),
      ...(/^[0-9a-f]{12}|^state/.test(ref)
        ? ([
            ['GET', `snapshots/mine/diff/${ref}`],
            ['GET', `snapshots/${ref}/diff/mine`],
            ['GET', `snapshots/${ref}/export`],
            ['POST', `snapshots/${ref}/restore`, {}],
            ['POST', 'execute', { checkpoint: ref, command: 'cat /root/file' }],
            ['POST', 'execute', { checkpoint: ref, command: 'cat /root/file', mode: 'checkpointed' }],
            ['POST', 'execute', { checkpoint: ref, command: 'cat /root/file', mode: 'cached' }],
          ] as [string, string, unknown][])
        : []),
    ]
    for (const ref of theirs)
      for (const [method, path, json] of requests(ref)) {
        const answer = await ask(method, path, json)
        expect(answer.status, `${method} ${path} ${JSON.stringify(json)}: ${answer.text}`).toBeGreaterThanOrEqual(400)
        expect(answer.text).not.toContain(SECRET)
        // Of the same form.
        const named = /^[0-9a-f]{12}/.test(ref) ? ref.replace(/\d/g, '0').replace(/[a-f]/g, 'a') : 'nobody'
        if (!/^(ins|exe)_/.test(ref))
          expect(answer.code, `${method} ${path} ${JSON.stringify(json)}`).toBe(
            (await ask(method, path.replaceAll(ref, named), swap(json, ref, named))).code,
          )
      }
    const { items } = (await ask('GET', 'instances')).json<{ items: Instance[] }>()
    expect(items.map(({ id }) => id)).toEqual([own.id])
    expect(await node.sh('box', 'cat /root/file', a)).toBe(`${SECRET}\n`)
  })

  const swap = (json: unknown, ref: string, named: string): unknown =>
    json === undefined ? undefined : JSON.parse(JSON.stringify(json).replaceAll(`"${ref}"`, `"${named}"`))

  test('is not had by knowing a hash', async () => {
    const at = { '/root/in': { blob: blob.hash } }
    const mine = await ask('POST', 'execute', { command: 'cat /root/in', files: at }, a)
    expect(mine.json<ExecutionResult>().stdout).toBe(SECRET)
    const refused = await ask('POST', 'execute', { command: 'cat /root/in', files: at })
    expect(refused.code).toBe('blob_not_found')
    for (const method of ['GET', 'HEAD', 'DELETE']) expect((await ask(method, `blobs/${blob.hash}`)).status).toBe(404)
    // Nor the blobs that a state is made of, not even for whom it belongs to.
    expect((await ask('GET', `blobs/${state.id}`)).code).toBe('blob_not_found')
    // Who has the bytes has the blob, of their own, and gives up only that.
    await call(node, 'PUT', 'blobs', undefined, { key: b, body: SECRET })
    expect((await ask('GET', `blobs/${blob.hash}`)).text).toBe(SECRET)
    expect((await ask('DELETE', `blobs/${blob.hash}`)).status).toBe(204)
    expect((await ask('GET', `blobs/${blob.hash}`)).status).toBe(404)
    expect((await ask('GET', `blobs/${blob.hash}`, undefined, a)).text).toBe(SECRET)
  })

  test('is no result that answers, and is not forgotten by others', async () => {
    const run = async (key: string): Promise<ExecutionResult> =>
      (await ask('POST', 'execute', { command: 'cat /proc/sys/kernel/random/uuid', mode: 'cached' }, key)).json()
    const first = await run(a)
    const again = await run(a)
    expect([again.cached, again.stdout]).toEqual([true, first.stdout])
    const theirs = await run(b)
    expect([theirs.cached, theirs.inputHash]).toEqual([false, first.inputHash])
    expect(theirs.stdout).not.toBe(first.stdout)
    for (const json of [{ all: true }, { key: first.inputHash }, { image: 'base' }])
      expect((await ask('DELETE', 'cache', json)).status).toBe(200)
    expect((await run(a)).stdout).toBe(first.stdout)
    expect((await run(b)).stdout).not.toBe(theirs.stdout)
    expect((await ask('GET', 'cache')).json<{ entries: number }>().entries).toBe(1)
  })

  test('is in no list; what is the whole node’s is the admin’s', async () => {
    for (const path of ['snapshots?name=state', 'branches', `branches?parent=${box.id}`, `snapshots?source=${box.id}`])
      expect((await ask('GET', path)).json<{ items: unknown[] }>().items, path).toEqual([])
    const lists = await Promise.all(['snapshots', 'blobs', 'usage'].map((path) => ask('GET', path)))
    for (const { text } of lists)
      for (const id of [state.id, blob.hash, execution.id, box.id]) expect(text).not.toContain(id)
    for (const [method, path] of [
      ['GET', 'store'],
      ['POST', 'store/collect'],
      ['POST', 'snapshots/import?trustMemory=true'],
    ] as const)
      expect((await ask(method, path)).code, path).toBe('forbidden')
  })

  test('of one name is apart', async () => {
    const theirs = await call<Snapshot>(node, 'POST', 'snapshots', { instanceId: 'own', name: 'state' }, { key: b })
    expect((await ask('GET', 'snapshots/state')).json<Snapshot>().id).toBe(theirs.id)
    expect((await ask('DELETE', 'snapshots/state')).status).toBe(204)
    expect((await ask('GET', 'snapshots/state', undefined, a)).json<Snapshot>().id).toBe(state.id)
    expect((await ask('GET', `snapshots/${state.id}/export`, undefined, a)).status).toBe(200)
  })
})

test('what a key may store is bounded, and room comes back', async () => {
  const { key } = await node.newKey({ tenant: 'small', quota: { storageMb: 2 } })
  const store = (bytes: number) => node.ask('PUT', '/api/v1/blobs', { key, body: randomBytes(bytes) })
  const first = await store(1_200_000)
  expect(first.status, first.text).toBeLessThan(300)
  expect((await store(1_200_000)).code).toBe('quota_exceeded')
  const mine = await node.start({}, key)
  await node.sh(mine.id, 'head -c 1500000 /dev/urandom > /root/noise', key)
  const take = () => ask('POST', 'snapshots', { instanceId: mine.id, memory: false }, key)
  const taken = await take()
  expect(taken.status, taken.text).toBe(201)
  await node.sh(mine.id, 'head -c 1500000 /dev/urandom > /root/noise', key)
  expect((await take()).code).toBe('quota_exceeded')
  const command = 'head -c 1500000 /dev/urandom > /root/noise'
  const execution = await ask('POST', 'execute', { command, mode: 'checkpointed' }, key)
  expect(execution.text).toContain('quota')
  expect(execution.json<ExecutionResult>().snapshotId).toBeUndefined()
  expect((await ask('DELETE', `snapshots/${taken.json<Snapshot>().id}`, undefined, key)).status).toBe(204)
  expect((await take()).status).toBe(201)
  expect((await ask('DELETE', `blobs/${first.json<TenantBlob>().hash}`, undefined, key)).status).toBe(204)
  expect((await store(1_200_000)).status).toBeLessThan(300)
  expect(await node.sh(mine.id, 'wc -c < /root/noise', key)).toBe('1500000\n')
})

describe('ids and names that are none', () => {
  const NAMES = [
    '../state',
    '..',
    '.',
    'a/b',
    'a\0b',
    '',
    ' ',
    '-x',
    '__proto__',
    'constructor',
    'é',
    'x'.repeat(129),
    '0'.repeat(63),
    '%2e%2e%2f',
    "';drop table snapshots;--",
    '{"$ne":1}',
    'ins_',
    '\u202e',
  ]

  test('are refused, or not there', async () => {
    for (const name of NAMES) {
      const encoded = encodeURIComponent(name)
      const answers = await Promise.all([
        ask('GET', `snapshots/${encoded}`),
        ask('GET', `snapshots/mine/diff/${encoded}`),
        ask('POST', `snapshots/${encoded}/restore`, {}),
        ask('GET', `blobs/${encoded}`),
        ask('POST', 'branches', { parent: name, count: 1 }),
        ask('POST', 'merge', { branches: [name] }),
        ask('POST', 'merge', { branches: ['own'], base: name }),
        ask('POST', 'fork', { parent: name, command: 'true' }),
        ask('POST', 'execute', { checkpoint: name, command: 'true' }),
        ask('POST', 'execute', { files: { '/x': { blob: name } }, command: 'true' }),
        ask('POST', 'snapshots', { instanceId: name }),
      ])
      // An empty segment is another route.
      for (const [index, { status, text }] of answers.entries())
        if (name !== '' || index > 3)
          expect([400, 404, 405, 409], `${index} ${JSON.stringify(name)}: ${status} ${text}`).toContain(status)
    }
  })

  test('are given to nothing', async () => {
    for (const name of NAMES.filter((each) => !['__proto__', 'constructor', 'ins_'].includes(each)))
      expect((await ask('POST', 'snapshots', { instanceId: 'own', name })).code, JSON.stringify(name)).toBe(
        'invalid_request',
      )
    for (const name of ['constructor', 'toString']) {
      const taken = await ask('POST', 'snapshots', { instanceId: 'own', name, memory: false })
      expect(taken.status, taken.text).toBe(201)
      expect((await ask('GET', `snapshots/${name}`)).json<Snapshot>().name).toBe(name)
    }
    for (const json of [
      { count: 0 },
      { count: 101 },
      { count: -1 },
      { count: 1.5 },
      {},
      { count: 1, commands: ['x'] },
      { commands: [] },
    ])
      expect((await ask('POST', 'branches', { parent: 'own', ...json })).code, JSON.stringify(json)).toBe(
        'invalid_request',
      )
  })
})
