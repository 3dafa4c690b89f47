import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { newId } from '@bramble/protocol'
import type { LocalImage } from '@bramble/runtime'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest'
import { systemClock } from '../options.ts'
import { INSTANCE_MIGRATIONS, type InstanceTables } from '../store/instance-tables.ts'
import { type InstanceChange, loadInstances, updateInstance } from '../store/instances.ts'
import { openDatabase } from '../store/open-database.ts'
import { type InstanceNode, instanceSpec, makeDirectory, OWNER, openInstanceNode, removeAll, run } from './testing.ts'

const { tenant } = OWNER

let image: TestImage
beforeAll(async () => {
  image = await makeTestImage()
})
afterAll(() => image[Symbol.asyncDispose]())

const open = async (context: TestContext, directory: string, options = {}): Promise<InstanceNode> => {
  const node = await openInstanceNode(directory, image, options)
  if ('skip' in node) return context.skip(node.skip)
  return node
}

/** A node in a process of its own, killed when it has made its instances. */
const CRASHING = `
  const { openInstanceNode, instanceSpec, OWNER, run } = await import(process.argv[1])
  const node = await openInstanceNode(process.argv[2], JSON.parse(process.argv[3]))
  if ('skip' in node) { console.log(JSON.stringify(node)); process.exit(0) }
  const { instances } = node.engine
  const ids = {}
  for (const [name, input] of Object.entries(JSON.parse(process.argv[4])))
    ids[name] = (await instances.create(instanceSpec({ name, ...input }), OWNER)).id
  const lease = await instances.use('runs', OWNER.tenant)
  await run(lease, 'echo kept > /root/file')
  const reading = lease.stream.read({ signal: new AbortController().signal })[Symbol.asyncIterator]()
  const command = 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done'
  lease.stream.start({ type: 'exec', id: 'counts', command, env: {}, stdin: true })
  let seq = 0
  for (let n = 0; n < 10; n++) ({ value: { seq } } = await reading.next())
  await instances.expose('runs', OWNER.tenant, 80, 'public')
  await instances.pause('paused', OWNER.tenant)
  await instances.stop('stopped', OWNER.tenant)
  console.log(JSON.stringify({ ids, seq }))
  await new Promise(() => setInterval(() => {}, 1000))
`

interface Crashed {
  readonly ids: Record<string, string>
  readonly seq: number
}

const crash = async (context: TestContext, directory: string, specs: Record<string, object>): Promise<Crashed> => {
  const testing = new URL('./testing.ts', import.meta.url).href
  const { digest, names, source, sizeBytes, createdAt, config, rootfs } = image
  const plain: LocalImage = { digest, names, source, sizeBytes, createdAt, config, rootfs }
  const args = [testing, directory, JSON.stringify(plain), JSON.stringify(specs)]
  const child = spawn(process.execPath, ['--input-type=module', '-e', CRASHING, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(createInterface(child.stdout), 'line')) as [string]
  const said = JSON.parse(line)
  if ('skip' in said) return context.skip(said.skip)
  child.kill('SIGKILL')
  await once(child, 'exit')
  return said
}

const withStore = async <T>(
  directory: string,
  work: (db: Awaited<ReturnType<typeof openDatabase<InstanceTables>>>) => Promise<T>,
) => {
  const path = join(directory, 'instances.db')
  await using db = await openDatabase<InstanceTables>({ path, owner: 'instances', migrations: INSTANCE_MIGRATIONS })
  return await work(db)
}

describe('a node that is killed', () => {
  test('finds its instances as they were: those that ran run, with what they said meanwhile', async (context) => {
    await using directory = await makeDirectory()
    const { seq } = await crash(context, directory.path, { runs: {}, paused: { command: 'sleep 1000' }, stopped: {} })
    const node = await open(context, directory.path)
    try {
      const { instances } = node.engine
      expect((await instances.list({ tenant, limit: 9 })).items).toMatchObject([
        { name: 'stopped', status: 'stopped' },
        { name: 'paused', status: 'paused' },
        { name: 'runs', status: 'running' },
      ])
      expect(node.engine.status().instances).toMatchObject({ running: 1, paused: 1, stopped: 1 })
      using lease = await instances.use('runs', tenant)
      expect((await run(lease, 'cat /root/file')).stdout).toBe('kept\n')
      expect([...lease.stream.commands.keys()]).toEqual(['counts'])
      // Nothing is missing between what the killed node handed out and what comes now.
      let next = seq
      let count = 0
      const text: string[] = []
      for await (const entry of lease.stream.read({ since: seq, signal: AbortSignal.timeout(20_000) })) {
        expect(entry.seq).toBe(++next)
        if ('event' in entry && entry.event.type === 'stdout') text.push(String(entry.event.data))
        if (++count === 100) break
      }
      const numbers = text.join('').trim().split('\n').map(Number)
      expect(numbers).toEqual(numbers.map((_, i) => (numbers[0] ?? 0) + i))
      lease.stream.commands.get('counts')?.kill(9)
      expect(await instances.exposures('runs', tenant)).toMatchObject([{ port: 80, visibility: 'public' }])
      using paused = await instances.use('paused', tenant)
      expect([...paused.stream.commands.keys()]).toEqual(['main'])
      await instances.start('stopped', tenant)
    } finally {
      await removeAll(node)
      expect(await node.runtime.list()).toEqual([])
      await node.close()
    }
  })

  test('finishes or undoes what was half done, and says what is gone', async (context) => {
    await using directory = await makeDirectory()
    const names = [
      'runs',
      'paused',
      'stopped',
      'died',
      'half',
      'restarting',
      'stopping',
      'doomed',
      'orphan',
      'late',
      'idle',
    ]
    const specs: Record<string, object> = Object.fromEntries(
      names.map((name) => [name, name === 'late' ? { ttlMs: 3_600_000 } : {}]),
    )
    specs.idle = { idleTtlMs: 3_600_000 }
    const { ids } = await crash(context, directory.path, specs)
    const id = (name: string): string => ids[name] ?? ''
    await withStore(directory.path, async (db) => {
      const changes: Record<string, InstanceChange> = {
        half: { status: 'starting', made: 0 },
        restarting: { status: 'starting' },
        stopping: { status: 'stopping' },
        doomed: { doomed: 1 },
        // The record of another sandbox than the one that runs: as if that one had ended.
        died: { sandbox_id: newId('sandbox') },
        idle: { used_at: new Date().toISOString() },
      }
      for (const [name, change] of Object.entries(changes)) await updateInstance(db, id(name), change)
      await db.deleteFrom('instances').where('id', '=', id('orphan')).execute()
    })
    const clock = { ...systemClock, now: () => Date.now() + 4_000_000 }
    const node = await open(context, directory.path, { clock })
    try {
      const { instances } = node.engine
      const happened = (change: string) =>
        node.notices.filter((notice) => notice.type === 'instance' && notice.change === change).length
      // What was half made, what was being deleted, and what expired meanwhile.
      await node.until(() => happened('deleted') === 3 && happened('paused') === 1)
      const { items } = await instances.list({ tenant, limit: 20 })
      const found = Object.fromEntries(items.map(({ name = '', status, reason }) => [name, { status, reason }]))
      expect(found).toEqual({
        runs: { status: 'running', reason: undefined },
        idle: { status: 'paused', reason: undefined },
        paused: { status: 'paused', reason: undefined },
        stopped: { status: 'stopped', reason: undefined },
        died: { status: 'stopped', reason: 'its sandbox was gone when the node started again' },
        restarting: { status: 'stopped', reason: 'the node stopped while it was starting' },
        stopping: { status: 'stopped', reason: undefined },
      })
      expect(await node.runtime.list()).toHaveLength(3)
      expect((await node.runtime.layers.list()).sort()).toEqual(Object.keys(found).map(id).sort())
      for (const name of ['died', 'restarting', 'stopping']) {
        await instances.start(name, tenant)
        using lease = await instances.use(name, tenant)
        expect(await run(lease, ['true'])).toMatchObject({ status: 'succeeded' })
      }
    } finally {
      await removeAll(node)
      expect([await node.runtime.list(), await node.runtime.layers.list()]).toEqual([[], []])
      await node.close()
    }
    await withStore(directory.path, async (db) => {
      expect((await loadInstances(db)).rows).toEqual([])
    })
  })
})

describe('a node that is closed', () => {
  test('lets its instances run, and charges what they used to their key, whichever node it is', async (context) => {
    await using directory = await makeDirectory()
    let aheadMs = 0
    const clock = { ...systemClock, now: () => Date.now() + aheadMs }
    const first = await open(context, directory.path, { clock })
    const { id } = await first.engine.instances.create(
      instanceSpec({ command: 'sleep 1000', resources: { memoryMb: 1024 } }),
      OWNER,
    )
    {
      using lease = await first.engine.instances.use(id, tenant)
      await run(lease, 'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done')
      const ended = lease.ended
      aheadMs = 10_000
      await first.close()
      expect(await ended).toEqual({ status: 'running', reason: 'the node is shutting down' })
      await expect(first.engine.instances.use(id, tenant)).rejects.toMatchObject({ code: 'shutting_down' })
    }
    aheadMs = 20_000
    const second = await open(context, directory.path, { clock })
    try {
      using lease = await second.engine.instances.use(id, tenant)
      expect([...lease.stream.commands.keys()]).toEqual(['main'])
      await second.engine.instances.stop(id, tenant)
      const [row] = await second.engine.usage({ tenant, since: new Date(0), until: new Date(clock.now() + 1000) })
      expect(row).toMatchObject({ keyId: OWNER.keyId, executions: 0 })
      // 1 GiB for 20 s, and the time that the test took.
      expect(row?.memoryGbSeconds).toBeGreaterThanOrEqual(20)
      expect(row?.memoryGbSeconds).toBeLessThan(80)
      expect(row?.cpuSeconds).toBeGreaterThan(0.01)
      expect(row?.cpuSeconds).toBeLessThan(20)
    } finally {
      await removeAll(second)
      await second.close()
    }
  })
})
