import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { instanceSchema, newId } from '@bramble/protocol'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, type TestContext, test } from 'vitest'
import type { Engine } from '../engine.ts'
import { spec } from '../testing.ts'
import { type InstanceNode, instanceSpec, OWNER, openInstanceNode, removeAll, request, run } from './testing.ts'

const OTHER = 'other'
let directory = ''
let image: TestImage
let node: InstanceNode
let skip: string | undefined
let instances: Engine['instances']

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-instances-'))
  image = await makeTestImage()
  const limits = { instanceWaitMs: 50, stopGraceMs: 2000, killGraceMs: 500 }
  const opened = await openInstanceNode(directory, image, { limits })
  if ('skip' in opened) skip = opened.skip
  else node = opened
})
beforeEach((context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
  ;({ instances } = node.engine)
})
afterEach(async () => {
  if (skip === undefined) await removeAll(node, [OWNER.tenant, OTHER])
})
afterAll(async () => {
  if (skip === undefined) await node.close()
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

const create = (input: Parameters<typeof instanceSpec>[0] = {}) => instances.create(instanceSpec(input), OWNER)
const { tenant } = OWNER

/** Processes on the host that are in that sandbox; the first is its agent. */
const processesIn = (sandboxId: string): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(sandboxId)
      } catch {
        return false
      }
    })
    .map(Number)
    .sort((a, b) => a - b)

const agentOf = (sandboxId: string): number => {
  const [agent] = processesIn(sandboxId)
  if (agent === undefined) throw new Error(`${sandboxId} has no process`)
  return agent
}

/** Resolves when some instance has changed so after this call. */
const changed = (change: string) => {
  const from = node.notices.length
  return node.until(() =>
    node.notices.slice(from).some((notice) => notice.type === 'instance' && notice.change === change),
  )
}

describe('an instance', () => {
  test('runs, stops, starts again with its files, and is deleted whole', async () => {
    const made = await create({ name: 'box', labels: { a: '1' } })
    expect(instanceSchema.parse(made)).toEqual(made)
    expect(made).toMatchObject({
      name: 'box',
      status: 'running',
      runtime: 'oci',
      imageDigest: image.digest,
      expiresAt: null,
    })
    {
      using lease = await instances.use('box', tenant)
      await run(lease, 'echo kept > /root/file; (sleep 1000 &)')
    }
    const [sandbox = ''] = await node.runtime.list()
    expect(processesIn(sandbox).length).toBeGreaterThan(0)
    expect(await instances.stop(made.id, tenant)).toMatchObject({ status: 'stopped' })
    expect(processesIn(sandbox)).toEqual([])
    expect(await node.runtime.list()).toEqual([])
    await expect(instances.use('box', tenant)).rejects.toMatchObject({ code: 'instance_stopped' })
    expect(await instances.start('box', tenant)).toMatchObject({ status: 'running' })
    {
      using lease = await instances.use('box', tenant)
      expect((await run(lease, 'cat /root/file')).stdout).toBe('kept\n')
    }
    await instances.remove('box', tenant)
    expect([await node.runtime.list(), await node.runtime.layers.list()]).toEqual([[], []])
    await expect(instances.get(made.id, tenant)).rejects.toMatchObject({ code: 'not_found' })
    await expect(instances.remove(made.id, tenant)).rejects.toMatchObject({ code: 'not_found' })
    expect((await create({ name: 'box' })).id).not.toBe(made.id)
  })

  test("is its tenant's alone, and its name is one of its tenant", async () => {
    const mine = await create({ name: 'box' })
    const theirs = await instances.create(instanceSpec({ name: 'box' }), { tenant: OTHER, keyId: 'key_other' })
    await expect(create({ name: 'box' })).rejects.toMatchObject({ code: 'conflict' })
    expect((await instances.get('box', OTHER)).id).toBe(theirs.id)
    for (const attempt of [
      instances.get(mine.id, OTHER),
      instances.use(mine.id, OTHER),
      instances.stop(mine.id, OTHER),
      instances.remove(mine.id, OTHER),
      instances.expose(mine.id, OTHER, 80, 'public'),
    ])
      await expect(attempt).rejects.toMatchObject({ code: 'not_found' })
    expect((await instances.list({ tenant: OTHER, limit: 10 })).items.map(({ id }) => id)).toEqual([theirs.id])
  })

  test('has the id that it is to have, once', async () => {
    const id = newId('instance')
    const context = { ...OWNER, id }
    expect(await instances.create(instanceSpec({}), context)).toMatchObject({ id, status: 'running' })
    await expect(instances.create(instanceSpec({}), context)).rejects.toMatchObject({ code: 'conflict' })
    await instances.remove(id, tenant)
    expect(await instances.create(instanceSpec({}), context)).toMatchObject({ id, status: 'running' })
  })

  test('refuses a change that makes no sense in its state', async () => {
    await create({ name: 'box', autoResume: false })
    await expect(instances.start('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
    await expect(instances.resume('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
    await instances.pause('box', tenant)
    await expect(instances.pause('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
    await expect(instances.use('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
    await instances.stop('box', tenant)
    await expect(instances.stop('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
    await expect(instances.pause('box', tenant)).rejects.toMatchObject({ code: 'conflict' })
  })

  test('changes one after another, however many ask at once', async () => {
    const { id } = await create()
    const asked = await Promise.allSettled([
      instances.stop(id, tenant),
      instances.start(id, tenant),
      instances.stop(id, tenant),
      instances.stop(id, tenant),
      instances.remove(id, tenant),
      instances.start(id, tenant),
    ])
    expect(asked.map(({ status }) => status)).toEqual([
      'fulfilled',
      'fulfilled',
      'fulfilled',
      'rejected',
      'fulfilled',
      'rejected',
    ])
    expect(await node.runtime.list()).toEqual([])
  })

  test('is asked to end before it is made to', async () => {
    const command = "trap 'echo asked > /root/asked; exit' TERM; while :; do sleep 0.05; done"
    await create({ name: 'box', command })
    {
      using lease = await instances.use('box', tenant)
      await run(lease, 'while ! ps | grep -q "sleep 0.05"; do :; done')
    }
    await instances.stop('box', tenant)
    expect(await instances.start('box', tenant)).toMatchObject({ status: 'running' })
    using lease = await instances.use('box', tenant)
    expect((await run(lease, 'cat /root/asked')).stdout).toBe('asked\n')
  })

  test('that cannot be made leaves nothing', async () => {
    await expect(create({ name: 'box', image: 'missing' })).rejects.toMatchObject({ code: 'image_not_found' })
    await expect(create({ network: 'egress', runtime: 'docker' })).rejects.toMatchObject({ code: 'unsupported' })
    await expect(create({ name: 'box', volumes: [{ name: 'missing', path: '/v' }] })).rejects.toMatchObject({
      code: node.runtime.capabilities.volumes ? 'not_found' : 'unsupported',
    })
    const gone = AbortSignal.abort(new Error('left'))
    await expect(instances.create(instanceSpec({ name: 'box' }), { ...OWNER, signal: gone })).rejects.toThrow('left')
    expect(await instances.list({ tenant, limit: 10 })).toEqual({ items: [], nextCursor: null })
    expect([await node.runtime.list(), await node.runtime.layers.list()]).toEqual([[], []])
    await create({ name: 'box' })
  })

  test('holds its place while it runs or is paused: the quota of its key is full', async () => {
    const owner = { tenant, keyId: 'key_small', quota: { concurrentSandboxes: 1 } }
    await instances.create(instanceSpec({ name: 'first' }), owner)
    await instances.pause('first', tenant)
    const second = () => instances.create(instanceSpec({ name: 'second' }), owner)
    await expect(second()).rejects.toMatchObject({ code: 'quota_exceeded' })
    await expect(
      instances.create(instanceSpec({ resources: { memoryMb: 200 } }), { ...owner, quota: { memoryMb: 100 } }),
    ).rejects.toMatchObject({ code: 'quota_exceeded' })
    await instances.stop('first', tenant)
    await second()
    await expect(instances.start('first', tenant)).rejects.toMatchObject({ code: 'quota_exceeded' })
    expect(await instances.get('first', tenant)).toMatchObject({ status: 'stopped' })
  })

  test('is listed newest first, by page, status and label', async () => {
    const made = []
    for (const color of ['red', 'red', 'blue']) made.push(await create({ labels: { color } }))
    const [first, second, third] = made.map(({ id }) => id)
    const page = await instances.list({ tenant, limit: 2 })
    expect(page.items.map(({ id }) => id)).toEqual([third, second])
    const next = await instances.list({ tenant, limit: 2, cursor: page.nextCursor ?? '' })
    expect([next.items.map(({ id }) => id), next.nextCursor]).toEqual([[first], null])
    await instances.pause(first ?? '', tenant)
    const ids = async (query: object) =>
      (await instances.list({ tenant, limit: 9, ...query })).items.map(({ id }) => id)
    expect(await ids({ status: 'paused' })).toEqual([first])
    expect(await ids({ label: 'color=red' })).toEqual([second, first])
    expect(await ids({ label: 'color' })).toHaveLength(3)
    expect(node.engine.status().instances).toEqual({ starting: 0, running: 2, paused: 1, stopping: 0, stopped: 0 })
    await expect(instances.list({ tenant, limit: 2, cursor: 'x' })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('keeps which of its ports are exposed', async () => {
    const { id } = await create({ name: 'box' })
    const made = await instances.expose('box', tenant, 3000, 'private')
    expect(made).toMatchObject({ instanceId: id, name: 'box', tenant, port: 3000, visibility: 'private' })
    const again = await instances.expose('box', tenant, 3000, 'public')
    expect(again).toEqual({ ...made, visibility: 'public' })
    await instances.expose('box', tenant, 80, 'private')
    expect((await instances.exposures('box', tenant)).map(({ port }) => port)).toEqual([80, 3000])
    expect(instances.findExposed(id, 3000)).toEqual([again])
    expect(instances.findExposed('box', 3000)).toEqual([again])
    expect(instances.findExposed('box', 82)).toEqual([])
    const [first, second] = await Promise.all([
      instances.expose('box', tenant, 81, 'private'),
      instances.expose('box', tenant, 81, 'public'),
    ])
    expect(second).toEqual({ ...first, visibility: 'public' })
    const ports = Array.from({ length: 70 }, (_, i) => 10_000 + i)
    const many = await Promise.allSettled(ports.map((port) => instances.expose('box', tenant, port, 'private')))
    expect(many.filter(({ status }) => status === 'fulfilled')).toHaveLength(61)
    await expect(instances.expose('box', tenant, 9, 'private')).rejects.toMatchObject({ code: 'quota_exceeded' })
    await instances.unexpose('box', tenant, 3000)
    await expect(instances.unexpose('box', tenant, 3000)).rejects.toMatchObject({ code: 'not_found' })
    await instances.remove('box', tenant)
    expect(instances.findExposed(id, 80)).toEqual([])
  })
})

describe('a paused instance', () => {
  test('uses no processor time, and is resumed by whoever uses it', async () => {
    await create({ name: 'box', command: 'while :; do :; done' })
    await instances.pause('box', tenant)
    const before = await instances.stats('box', tenant)
    const reads = await Promise.all([instances.stats('box', tenant), instances.get('box', tenant)])
    expect(reads).toMatchObject([{ cpuMs: before.cpuMs, processes: before.processes }, { status: 'paused' }])
    const leases = await Promise.all([instances.use('box', tenant), instances.use('box', tenant)])
    expect((await instances.get('box', tenant)).status).toBe('running')
    expect(await run(leases[0], ['echo', 'awake'])).toMatchObject({ stdout: 'awake\n' })
    for (const lease of leases) lease[Symbol.dispose]()
  })

  test('is resumed under who holds it', async () => {
    await create({ name: 'box' })
    using lease = await instances.use('box', tenant)
    await instances.pause('box', tenant)
    const resumed = changed('resumed')
    expect(await run(lease, ['echo', 'awake'])).toMatchObject({ stdout: 'awake\n' })
    await resumed
    expect((await instances.get('box', tenant)).status).toBe('running')
  })
})

describe('time', () => {
  test('past its TTL an instance is deleted, unless it was extended', async () => {
    const { id, expiresAt: first, createdAt } = await create({ ttlMs: 60_000 })
    expect(Date.parse(first ?? '') - Date.parse(createdAt)).toBe(60_000)
    await create({ ttlMs: 60_000, name: 'kept' })
    expect((await instances.extend('kept', tenant, null)).expiresAt).toBeNull()
    using lease = await instances.use(id, tenant)
    await instances.extend(id, tenant, 50)
    expect(await lease.ended).toEqual({ status: 'deleted' })
    await node.until(() => node.notices.some((notice) => notice.type === 'instance' && notice.change === 'deleted'))
    await expect(instances.get(id, tenant)).rejects.toMatchObject({ code: 'not_found' })
    expect((await instances.get('kept', tenant)).status).toBe('running')
    const { expiresAt } = await instances.extend('kept', tenant, 60_000)
    expect(Date.parse(expiresAt ?? '')).toBeGreaterThan(Date.now())
  })

  test('that nobody uses is paused, stopped or deleted', async () => {
    for (const [idleAction, change] of [
      ['pause', 'paused'],
      ['stop', 'stopped'],
      ['delete', 'deleted'],
    ] as const) {
      const done = changed(change)
      await create({ idleTtlMs: 30, idleAction, command: 'exec sleep 1000' })
      await done
    }
    const { items } = await instances.list({ tenant, limit: 9 })
    expect(items).toMatchObject([{ status: 'stopped', reason: 'nobody used it for `idleTtlMs`' }, { status: 'paused' }])
  })

  test('does not pass for an instance that someone holds, or that runs a command', async () => {
    const paused = changed('paused')
    const { id } = await create({ idleTtlMs: 30 })
    {
      using lease = await instances.use(id, tenant)
      await run(lease, 'sleep 0.15')
      expect((await instances.get(id, tenant)).status).toBe('running')
      lease.stream.start({ type: 'exec', id: 'job', command: 'sleep 0.2', env: {}, stdin: false })
    }
    const beganMs = Date.now()
    await paused
    // The command began before; what matters is that it had its time.
    expect(Date.now() - beganMs).toBeGreaterThan(150)
    using lease = await instances.use(id, tenant)
    const events = []
    for await (const entry of lease.stream.read({ since: 0, signal: AbortSignal.timeout(5000) })) {
      events.push(entry)
      if (events.length === 2) break
    }
    expect(events).toMatchObject([{ event: { type: 'started' } }, { id: 'job', event: { type: 'exit', code: 0 } }])
  })
})

describe('a sandbox that ends by itself', () => {
  test('leaves the instance stopped, with the reason, and nobody hanging', async () => {
    await create({ name: 'box' })
    using lease = await instances.use('box', tenant)
    await run(lease, 'echo kept > /root/file')
    const signal = AbortSignal.timeout(20_000)
    const held = lease.exec(request('sleep 1000'), { signal, stream: false }).result
    const streamed = lease.exec(request('sleep 1000'), { signal, stream: true })
    const entries = (async () => {
      const seen = []
      for await (const entry of lease.stream.read({ signal })) seen.push(entry)
      return seen
    })()
    lease.stream.start({ type: 'exec', command: 'echo said; sleep 1000', env: {}, stdin: true })
    for await (const event of streamed) {
      expect(event.type).toBe('started')
      const [sandbox = '?'] = await node.runtime.list()
      process.kill(agentOf(sandbox), 'SIGKILL')
    }
    await expect(held).rejects.toMatchObject({ code: 'sandbox_died' })
    await expect(streamed.result).rejects.toMatchObject({ code: 'sandbox_died' })
    const { status, reason } = await lease.ended
    expect([status, reason]).toEqual(['stopped', expect.stringContaining('ended by itself')])
    expect((await entries).map((entry) => 'event' in entry && entry.event.type)).toEqual(
      expect.arrayContaining(['started']),
    )
    expect(await instances.get('box', tenant)).toMatchObject({ status: 'stopped', reason })
    expect(() => lease.stream.start({ type: 'exec', command: 'x', env: {}, stdin: true })).toThrow()
    await instances.start('box', tenant)
    using again = await instances.use('box', tenant)
    expect((await run(again, 'cat /root/file')).stdout).toBe('kept\n')
    expect((await instances.get('box', tenant)).reason).toBeUndefined()
  })

  test('that does not answer holds nobody up', async () => {
    await create({ name: 'box' })
    using lease = await instances.use('box', tenant)
    await run(lease, ['true'])
    const [sandbox = '?'] = await node.runtime.list()
    process.kill(agentOf(sandbox), 'SIGSTOP')
    expect(await run(lease, { command: ['true'], timeoutMs: 20 })).toMatchObject({ status: 'timeout' })
    expect(await instances.stats('box', tenant)).toMatchObject({ id: lease.id })
    await instances.stop('box', tenant)
    expect([await lease.ended, processesIn(sandbox)]).toEqual([{ status: 'stopped' }, []])
    expect(await node.runtime.list()).toEqual([])
  })

  test('is connected to again where only the connection was lost', async () => {
    await create({ name: 'box', command: 'sleep 1000' })
    using lease = await instances.use('box', tenant)
    await run(lease, ['true'])
    const before = lease.agent
    await before.close()
    using again = await instances.use('box', tenant)
    expect(again.agent).not.toBe(before)
    expect(await run(again, ['echo', 'there'])).toMatchObject({ stdout: 'there\n' })
    expect([...again.stream.commands.keys()]).toEqual(['main'])
    expect((await instances.get('box', tenant)).status).toBe('running')
  })
})

describe('a network', () => {
  test('is that of the spec, of instances and of executions', async (context) => {
    if (!node.runtime.capabilities.network.includes('allow')) return context.skip('this host offers no networks')
    const network = { allow: ['203.0.113.0/24'] }
    await create({ name: 'box', network })
    using lease = await instances.use('box', tenant)
    expect((await run(lease, 'ip addr')).stdout).toContain('eth0')
    await expect(lease.connect({ host: 'example.org', port: 80 })).rejects.toMatchObject({ code: 'port_closed' })
    const execute = (input: object) => node.engine.execute(spec({ command: 'ip addr', ...input }), OWNER).result
    expect((await execute({ network })).stdout).toContain('eth0')
    expect((await execute({})).stdout).not.toContain('eth0')
    return undefined
  })
})

describe('the mode `persistent`', () => {
  test('leaves an instance, with what the command did', async () => {
    const execution = node.engine.execute(
      spec({
        command: 'cat in > out; echo $A',
        mode: 'persistent',
        files: { in: 'text' },
        outputs: ['out'],
        workdir: '/root',
        env: { A: 'b' },
        ttlMs: 3_600_000,
        labels: { from: 'test' },
      }),
      OWNER,
    )
    const result = await execution.result
    expect(result).toMatchObject({
      mode: 'persistent',
      status: 'succeeded',
      stdout: 'b\n',
      outputs: { out: { content: 'text' } },
    })
    const { instanceId = '' } = result
    expect(await instances.get(instanceId, tenant)).toMatchObject({ status: 'running', labels: { from: 'test' } })
    using lease = await instances.use(instanceId, tenant)
    expect((await run(lease, 'cat out; echo $A')).stdout).toBe('textb\n')
    expect(await node.engine.executions.get(execution.id, tenant)).toMatchObject({ result: { instanceId } })
  })

  test('refuses a life longer than an instance may have', () => {
    const forever = spec({ command: 'true', mode: 'persistent', ttlMs: 1e15 })
    expect(() => node.engine.execute(forever, OWNER)).toThrow(expect.objectContaining({ code: 'invalid_request' }))
  })

  test('leaves none where the execution was cancelled', async () => {
    const execution = node.engine.execute(spec({ command: 'sleep 1000', mode: 'persistent' }), {
      ...OWNER,
      stream: true,
    })
    for await (const event of execution) if (event.type === 'started') execution.cancel()
    expect(await execution.result).toMatchObject({ status: 'cancelled' })
    expect((await instances.list({ tenant, limit: 9 })).items).toEqual([])
  })
})
