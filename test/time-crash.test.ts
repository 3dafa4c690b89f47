import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { openS3Server, type S3Server } from '@bramble/blobs/testing/s3'
import type { BranchesResponse, ExecutionResult, Instance, MergeResponse, Snapshot } from '@bramble/protocol'
import { launcherOf } from '@bramble/runtime/testing'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { cgroupsOf, until } from './leftovers.ts'
import { type LiveNode, openLiveNode } from './live-node.ts'
import { call, shellOf, untilUploaded } from './time-node.ts'

/**
 * A node is killed with -9 at steps of what it does with states, counted in the node itself (`crash-steps.ts`). Then it
 * starts again: what a client was told is so, and nothing half made is left. `CRASH_STEPS` says how many steps of
 * each operation are tried, evenly apart.
 */

const STEPS_EACH = Number(process.env.CRASH_STEPS ?? 2)

let skip: string | undefined
let directory = ''
let url = ''
let s3: S3Server
let node: LiveNode
let box: Instance
let sleeper: Instance
let branches: string[] = []
let exported: Buffer
/** What was told so far: snapshots with what their shells know (undefined: without memory). */
const told = new Map<string, string | undefined>()

/** Sets the counter of steps, or reads it. */
const control = async (word: string): Promise<number> => {
  const file = join(directory, 'control')
  writeFileSync(file, word)
  process.kill(node.process.pid, 'SIGUSR2')
  const answer = word === 'count' ? /^\d+\n$/ : /^$/
  await until('the node has heard', () => answer.test(readFileSync(file, 'utf8')))
  return Number(readFileSync(file, 'utf8'))
}

const post = <T>(path: string, json: unknown): Promise<T> => call(node, 'POST', path, json)
const tell = (id: string, word: string): Promise<string> => shellOf(node, id).tell(word)
const remove = (id: string): Promise<void> => call(node, 'DELETE', `instances/${id}`)

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-crash-'))
  const server = await openS3Server()
  if ('skip' in server) {
    skip = server.skip
    return
  }
  s3 = server
  url = s3.url(await s3.newBucket())
  const opened = await openLiveNode({
    checkpoint: true,
    env: {
      NODE_OPTIONS: `--import=${join(import.meta.dirname, './crash-steps.ts')}`,
      CRASH_STEPS_FILE: join(directory, 'control'),
      BRAMBLE_OBJECT_STORE_URL: url,
      BRAMBLE_LOG_LEVEL: 'error',
    },
  })
  if ('skip' in opened) {
    skip = opened.skip
    return
  }
  node = opened
  box = await node.start({ name: 'box' })
  sleeper = await node.start({ name: 'sleeper' })
  for (const { id } of [box, sleeper]) await shellOf(node, id).start()
  await tell(box.id, 'a')
  await tell(sleeper.id, 's')
  const { items } = await post<BranchesResponse>('branches', { parent: box.id, count: 2, memory: false })
  branches = items.map(({ instanceId }) => instanceId)
  for (const id of branches) await node.sh(id, `echo ${id} > /root/${id}`)
  const { id } = await post<Snapshot>('snapshots', { instanceId: box.id, name: 'base', memory: true })
  told.set(id, 'a')
  // What is imported is not there.
  const other = await post<Snapshot>('snapshots', { instanceId: branches[0], memory: false })
  exported = (await node.ask('GET', `/api/v1/snapshots/${other.id}/export`)).body
  await call(node, 'DELETE', `snapshots/${other.id}`)
}, 120_000)
afterAll(async () => {
  await node?.[Symbol.asyncDispose]()
  await s3?.close()
  rmSync(directory, { recursive: true, force: true })
})
beforeEach((context) => {
  if (skip !== undefined) context.skip(skip)
})

/** The btrfs of the sandboxes, as the launcher has it mounted. */
const onDisk = (folder: string): string[] =>
  readdirSync(`/proc/${launcherOf(node.dataDirectory)}/root/run/disk/${folder}`).sort()

const sealRows = (): string[] => {
  using database = new DatabaseSync(join(node.dataDirectory, 'snapshots.db'), { readOnly: true })
  return database
    .prepare('select name from seals')
    .all()
    .map(({ name }) => String(name))
}

/** After a start: nothing is half made, and what goes on goes on. */
const expectWhole = async ({ instances = [] }: Told): Promise<void> => {
  expect(onDisk('.seals')).toEqual(sealRows().sort())
  for (const folder of ['imports', 'uploads'])
    if (existsSync(join(node.dataDirectory, folder))) expect(readdirSync(join(node.dataDirectory, folder))).toEqual([])
  expect(readdirSync(join(node.dataDirectory, 'blobs/tmp')).length).toBeLessThanOrEqual(1)
  const { items } = await call<{ items: Instance[] }>(node, 'GET', 'instances?limit=100')
  for (const { status } of items) expect(['running', 'paused']).toContain(status)
  const boxes = items.filter(({ status, snapshotId }) => status === 'running' || snapshotId === undefined)
  expect(cgroupsOf(node.dataDirectory)).toHaveLength(boxes.length)
  const { items: snapshots } = await call<{ items: Snapshot[] }>(node, 'GET', 'snapshots?limit=500')
  const ids = snapshots.map(({ id }) => id)
  for (const id of told.keys()) expect(ids).toContain(id)
  expect(await tell(box.id, 'x')).toMatch(/^a+x+$/)
  // Those that nobody was told of are whole, too.
  const known = [box.id, sleeper.id, ...branches, ...instances]
  for (const { id } of items) if (!known.includes(id)) await node.sh(id, 'true').then(() => remove(id))
}

interface Told {
  readonly snapshot?: string
  readonly removed?: string
  readonly instances?: readonly string[]
}

/** What the node does, and what its client has been told of it. */
const OPERATIONS: Readonly<Record<string, () => Promise<Told>>> = {
  take: async () => ({ snapshot: (await post<Snapshot>('snapshots', { instanceId: box.id, memory: true })).id }),
  branch: async () => {
    const { items } = await post<BranchesResponse>('branches', { parent: box.id, count: 2, memory: true })
    return { instances: items.map(({ instanceId }) => instanceId) }
  },
  restore: async () => ({ instances: [(await post<Instance>('snapshots/base/restore', { memory: true })).id] }),
  'pause into a snapshot': async () => {
    const { snapshotId = '' } = await post<Instance>(`instances/${sleeper.id}/pause`, { snapshot: true })
    return { snapshot: snapshotId }
  },
  merge: async () => ({ snapshot: (await post<MergeResponse>('merge', { branches })).snapshot?.id ?? '' }),
  import: async () => {
    const answer = await node.ask('POST', '/api/v1/snapshots/import', { body: exported })
    if (answer.status !== 201) throw new Error(answer.text)
    return { snapshot: answer.json<Snapshot>().id }
  },
  'a checkpointed execution': async () => {
    const { snapshotId = '' } = await post<ExecutionResult>('execute', {
      command: 'date > /root/date',
      mode: 'checkpointed',
    })
    return { snapshot: snapshotId }
  },
  upload: async () => {
    await node.sh(box.id, `echo ${randomBytes(100_000).toString('hex')} > /root/noise`.slice(0, 100_000))
    const { id } = await post<Snapshot>('snapshots', { instanceId: box.id, memory: false })
    // To be killed while it goes on.
    await untilUploaded(node).catch(() => {})
    return { snapshot: id }
  },
  remove: async () => {
    const { id } = await post<Snapshot>('snapshots', { instanceId: branches[0], memory: false })
    await call(node, 'DELETE', `snapshots/${id}`)
    await post('store/collect', undefined)
    return { removed: id }
  },
}

const check = async ({ snapshot, removed, instances = [] }: Told): Promise<void> => {
  for (const id of instances) {
    expect(await tell(id, 'y')).toMatch(/^a[ax]*y$/)
    await remove(id)
  }
  if (removed !== undefined) expect((await node.ask('GET', `/api/v1/snapshots/${removed}`)).code).toBe('not_found')
  if (snapshot !== undefined) {
    const { id } = await post<Instance>(`snapshots/${snapshot}/restore`, {})
    await node.sh(id, 'true')
    await remove(id)
    told.set(snapshot, undefined)
  }
}

test.each(Object.keys(OPERATIONS))('killed at steps of: %s', { timeout: 900_000 }, async (name) => {
  const operation = OPERATIONS[name] ?? (async () => ({}))
  const restingOf = async (): Promise<void> => {
    // It is awake again, and asked things as before.
    if (name.startsWith('pause')) expect(await tell(sleeper.id, 's')).toMatch(/^s+$/)
  }
  await control('1000000')
  await check(await operation())
  const total = await control('count')
  await restingOf()
  expect(total).toBeGreaterThan(10)
  const stride = Math.max(1, total / STEPS_EACH)
  for (let at = stride / 2; at < total; at += stride) {
    await control(String(Math.max(1, Math.round(at))))
    const done = await operation().catch(() => undefined)
    await node.kill()
    await node.again()
    await expectWhole(done ?? {}).catch((cause) => {
      throw new Error(`killed at step ${Math.round(at)} of ${total}`, { cause })
    })
    if (done !== undefined) await check(done)
    await restingOf()
  }
})

test('in the end, another node finds all that was told of in S3, and the disk has nothing that is not', async () => {
  await untilUploaded(node)
  const { items } = await call<{ items: Instance[] }>(node, 'GET', 'instances?limit=100')
  for (const { id } of items) await remove(id)
  expect(cgroupsOf(node.dataDirectory)).toEqual([])
  expect(onDisk('.layers')).toEqual([])
  const other = await openLiveNode({ env: { BRAMBLE_OBJECT_STORE_URL: url } })
  if ('skip' in other) throw new Error(other.skip)
  await using second = other
  for (const [id, knows] of told) {
    const { memory } = await call<Snapshot>(second, 'GET', `snapshots/${id}`)
    if (knows !== undefined) expect(memory).toBeDefined()
  }
  const some = [...told.keys()].slice(0, 3)
  for (const id of some) {
    const restored = await call<Instance>(second, 'POST', `snapshots/${id}/restore`, {})
    await second.sh(restored.id, 'true')
  }
})
