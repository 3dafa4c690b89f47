import { cpSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type BlobStore, fsStore, type Lease } from '@bramble/blobs'
import { type FakeHost, makeFakeHost } from '@bramble/runtime'
import { expect, test } from 'vitest'
import type { Engine } from '../engine.ts'
import { openDatabase } from '../store/open-database.ts'
import { SNAPSHOT_MIGRATIONS, type SnapshotTables } from '../store/snapshot-tables.ts'
import {
  branch,
  make,
  makeTestDirectory,
  merge,
  OWNER,
  openTestNode,
  read,
  restore,
  sh,
  take,
  write,
} from './testing.ts'

/**
 * A kill at every step: before and after each call of the store, all that a killed process would leave (its directory, and
 * what its host keeps) is copied, with what clients had been told by then. From each copy a node has to open, and all that
 * was told has to be there.
 */

const { tenant } = OWNER

interface Killed {
  readonly at: string
  readonly directory: string
  readonly host: FakeHost
  /** Content of `/data` by snapshot. */
  readonly told: ReadonlyMap<string, string>
  readonly removed: ReadonlySet<string>
  /** Instances that are paused in a snapshot, with their `/data`. */
  readonly paused: ReadonlyMap<string, string>
}

/** What a host keeps when the node on it is killed: sandboxes of the fake die with it. */
const leftOf = (host: FakeHost): FakeHost => {
  const left = makeFakeHost(host)
  for (const [name, layer] of host.layers) left.layers.set(name, layer.copy())
  for (const [name, seal] of host.seals) left.seals.set(name, seal)
  return left
}

/** Where nothing has changed, a kill leaves the same. */
const fingerprintOf = (directory: string): string =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name))
    .map((path) => `${path} ${statSync(path).mtimeMs} ${statSync(path).size}`)
    .join('\n')

const stepping = (store: BlobStore, step: (at: string) => void): BlobStore => {
  const around = async <T>(at: string, work: () => Promise<T>): Promise<T> => {
    step(`before ${at}`)
    const result = await work()
    step(`after ${at}`)
    return result
  }
  const leased = (lease: Lease): Lease => ({
    id: lease.id,
    hold: (...args) => around('hold', () => lease.hold(...args)),
    release: () => around('release', () => lease.release()),
    [Symbol.asyncDispose]: () => around('release', () => lease.release()),
  })
  const { names, leases } = store
  return new Proxy(store, {
    get(target, property: keyof BlobStore) {
      if (property === 'put')
        return (...[source, options]: Parameters<BlobStore['put']>) =>
          around('put', () => store.put(source, options?.lease ? { ...options, lease: inner(options.lease) } : options))
      if (property === 'remove')
        return (...args: Parameters<BlobStore['remove']>) => around('remove', () => store.remove(...args))
      if (property === 'names')
        return {
          ...names,
          get: names.get.bind(names),
          list: names.list.bind(names),
          set: (...args: Parameters<typeof names.set>) =>
            around(`name ${args[0].split('/')[0]}`, () => names.set(...args)),
          remove: (...args: Parameters<typeof names.remove>) => around('unname', () => names.remove(...args)),
        }
      if (property === 'leases')
        return {
          held: leases.held.bind(leases),
          acquire: async (...args: Parameters<typeof leases.acquire>) => {
            const lease = await around('acquire', () => leases.acquire(...args))
            const outer = leased(lease)
            inners.set(outer, lease)
            return outer
          },
        }
      const value = target[property]
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}
/** A store knows the leases that it gave, not what was put around them. */
const inners = new WeakMap<Lease, Lease>()
const inner = (lease: Lease): Lease => inners.get(lease) ?? lease

/** Does everything once; `step` is called between what it does. */
const live = async (directory: string, host: FakeHost, killed: (killed: Killed) => void): Promise<void> => {
  const told = new Map<string, string>()
  const removed = new Set<string>()
  const paused = new Map<string, string>()
  let steps = 0
  let before = ''
  const step = (at: string): void => {
    const now = [fingerprintOf(join(directory, 'node')), host.seals.size, host.layers.size, told.size].join()
    if (now === before) return
    before = now
    const copy = join(directory, 'copies', `${steps++}`)
    cpSync(join(directory, 'node'), copy, { recursive: true })
    killed({
      at,
      directory: copy,
      host: leftOf(host),
      told: new Map(told),
      removed: new Set(removed),
      paused: new Map(paused),
    })
  }
  await using store = await fsStore({ directory: join(directory, 'node', 'blobs') })
  const blobs = stepping(store, step)
  const options = { blobs, deps: { host }, directory: join(directory, 'node') }
  const node = await openTestNode(options)
  const { engine } = node
  const box = await make(engine)
  const other = await make(engine)
  await write(engine, other.id, '/data', 'asleep')
  for (const text of ['one', 'two']) {
    await write(engine, box.id, '/data', text)
    told.set((await take(engine, box.id, { name: text, memory: false })).id, text)
  }
  const { items } = await branch(engine, { parent: box.id, count: 2, memory: false })
  const [left = '', right = ''] = items.map(({ instanceId }) => instanceId)
  await write(engine, left, '/left', 'left')
  await write(engine, right, '/data', 'right')
  const merged = await merge(engine, { branches: [left, right], name: 'merged' })
  told.set(merged.snapshot?.id ?? '', 'right')
  await engine.snapshots.pause(other.id, OWNER)
  paused.set(other.id, 'asleep')
  step('between')
  const [first = ''] = told.keys()
  told.delete(first)
  await engine.snapshots.remove('one', tenant)
  removed.add(first)
  await engine.snapshots.collect({ graceMs: 0 })
  step('at the end')
  await node[Symbol.asyncDispose]()
}

const contentOf = async (engine: Engine, snapshot: string): Promise<string | undefined> => {
  const { id } = await restore(engine, snapshot, { memory: false })
  const content = await read(engine, id, '/data')
  await engine.instances.remove(id, tenant)
  return content
}

const check = async ({ directory, host, told, removed, paused }: Killed): Promise<void> => {
  await using store = await fsStore({ directory: join(directory, 'blobs') })
  await using node = await openTestNode({ directory, blobs: store, deps: { host } })
  const { engine } = node
  const { items } = await engine.snapshots.list({ tenant, limit: 100 })
  const ids = new Set<string>(items.map(({ id }) => id))
  for (const id of told.keys()) expect(ids).toContain(id)
  for (const id of removed) expect(ids).not.toContain(id)
  await engine.snapshots.collect({ graceMs: 0 })
  // Those that nobody was told of, too: what is there is whole.
  for (const { id, source } of items) {
    const content = await contentOf(engine, id)
    if (told.has(id)) expect(content).toBe(told.get(id))
    else expect(content, source).toBeDefined()
  }
  for (const [id, content] of paused) expect(await read(engine, id, '/data')).toBe(content)
  expect((await sh(engine, (await make(engine)).id, 'echo alive')).stdout).toBe('alive\n')
  await engine.close({ graceMs: 0 })
  expect(await recordedSeals(directory)).toEqual([...host.seals.keys()].sort())
}

const recordedSeals = async (directory: string): Promise<string[]> => {
  const db = await openDatabase<SnapshotTables>({
    path: join(directory, 'snapshots.db'),
    owner: 'snapshots',
    migrations: SNAPSHOT_MIGRATIONS,
  })
  const rows = await db.selectFrom('seals').select('name').orderBy('name').execute()
  await db.destroy()
  return rows.map(({ name }) => name)
}

test('killed at any step, a node opens with all that it told of', { timeout: 300_000 }, async () => {
  await using directory = await makeTestDirectory()
  const all: Killed[] = []
  await live(directory.path, makeFakeHost(), (killed) => all.push(killed))
  expect(all.length).toBeGreaterThan(30)
  for (const [index, killed] of all.entries())
    await check(killed).catch((cause: unknown) => {
      throw new Error(`killed at step ${index}, ${killed.at}`, { cause })
    })
})
