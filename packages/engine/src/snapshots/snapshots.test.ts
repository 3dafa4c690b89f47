import { memoryStore } from '@bramble/blobs'
import { describe, expect, test } from 'vitest'
import { make, note, OWNER, openForTest, read, restore, sh, startNotes, take, write } from './testing.ts'

const STRANGER = { tenant: 'other', keyId: 'key_other' }

describe('a snapshot', () => {
  test('has what was there when it was taken, and is restored any number of times', async () => {
    const { engine, notices } = await openForTest()
    const box = await make(engine, { env: { GREETING: 'hello' } })
    await write(engine, box.id, '/data', 'before')
    const snapshot = await take(engine, box.id, { name: 'first', memory: false, labels: { stage: 'one' } })
    await write(engine, box.id, '/data', 'after')

    expect(snapshot).toMatchObject({ name: 'first', origin: 'instance', source: box.id, labels: { stage: 'one' } })
    expect(notices).toContainEqual(expect.objectContaining({ type: 'snapshot', origin: 'instance' }))
    const [one, two] = [await restore(engine, 'first'), await restore(engine, snapshot.id.slice(0, 8))]
    expect(await read(engine, one.id, '/data')).toBe('before')
    await write(engine, one.id, '/data', 'changed')
    expect(await read(engine, two.id, '/data')).toBe('before')
    expect(await read(engine, box.id, '/data')).toBe('after')
    expect((await sh(engine, two.id, 'echo $GREETING')).stdout).toBe('hello\n')
    expect(two.parent).toBe(snapshot.id)
  })

  test('with memory: its processes go on, those of the instance are not disturbed', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    await startNotes(engine, box.id)
    await note(engine, box.id, 'a')
    const snapshot = await take(engine, box.id)
    expect(snapshot.memory).toMatchObject({ trusted: true, requires: { runtime: 'fake' } })
    expect(await note(engine, box.id, 'b')).toBe('ab')
    const again = await restore(engine, snapshot.id)
    expect(await note(engine, again.id, 'c')).toBe('ac')
    const files = await restore(engine, snapshot.id, { memory: false })
    await expect(note(engine, files.id, 'd')).rejects.toThrow('nobody takes notes')
  })

  test('what runs goes on telling its clients, and a command that runs is not cut', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    using lease = await engine.instances.use(box.id, OWNER.tenant)
    const { signal } = new AbortController()
    const request = { command: 'echo begun; sleep 0.3; echo done', env: {} }
    const running = lease.exec(request, { signal, stream: true })
    let output = ''
    let taken: Promise<unknown> | undefined
    for await (const event of running)
      if (event.type === 'stdout') {
        output += Buffer.from(event.data).toString()
        taken ??= take(engine, box.id, { memory: true })
      }
    expect(output).toBe('begun\ndone\n')
    expect(await running.result).toMatchObject({ status: 'succeeded' })
    await taken
  })

  test('of a snapshot has that as its parent', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    const first = await take(engine, box.id)
    const second = await take(engine, box.id)
    const restored = await restore(engine, first.id)
    const third = await take(engine, restored.id)
    expect([first.parent, second.parent, third.parent]).toEqual([undefined, first.id, first.id])
  })

  test('is what an instance begins with, also with a command', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    await write(engine, box.id, '/data', 'kept')
    await take(engine, box.id, { name: 'base' })
    const other = await make(engine, { snapshot: 'base', command: 'cat /data > /seen; sleep 60', name: 'named' })
    await expect.poll(() => read(engine, other.id, '/seen')).toBe('kept')
    expect(other.parent).toBeDefined()
    await engine.instances.stop(other.id, OWNER.tenant)
    await engine.instances.start(other.id, OWNER.tenant)
    expect(await read(engine, other.id, '/data')).toBe('kept')
  })
})

describe('the registry', () => {
  test('finds by name (the newest), by hash, by its beginning, and nothing of another tenant', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    const old = await take(engine, box.id, { name: 'same' })
    const newer = await take(engine, box.id, { name: 'same' })
    const { tenant } = OWNER
    expect((await engine.snapshots.get('same', tenant)).id).toBe(newer.id)
    expect((await engine.snapshots.get(old.id, tenant)).id).toBe(old.id)
    expect((await engine.snapshots.get(old.id.slice(0, 12), tenant)).id).toBe(old.id)
    for (const ref of ['same', old.id, 'nothing', 'ffffffffff'])
      await expect(engine.snapshots.get(ref, STRANGER.tenant)).rejects.toMatchObject({ code: 'not_found' })
    await expect(restore(engine, old.id, {}, STRANGER)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('lists newest first, in pages, by name, label and source', async () => {
    const { engine } = await openForTest()
    const [one, two] = [await make(engine), await make(engine)]
    const ids: string[] = []
    for (const label of ['a', 'b', 'a'])
      ids.unshift((await take(engine, one.id, { labels: { label }, memory: false })).id)
    ids.unshift((await take(engine, two.id, { name: 'two', memory: false })).id)
    const list = async (query: object) =>
      (await engine.snapshots.list({ tenant: OWNER.tenant, limit: 10, ...query })).items.map(({ id }) => id)
    expect(await list({})).toEqual(ids)
    expect(await list({ label: 'label=a' })).toEqual([ids[1], ids[3]])
    expect(await list({ label: 'label' })).toEqual(ids.slice(1))
    expect(await list({ name: 'two' })).toEqual([ids[0]])
    expect(await list({ source: one.id })).toEqual(ids.slice(1))
    expect(await list({ tenant: 'other' })).toEqual([])
    const paged: string[] = []
    let cursor: string | undefined
    do {
      const page = await engine.snapshots.list({ tenant: OWNER.tenant, limit: 3, ...(cursor && { cursor }) })
      paged.push(...page.items.map(({ id }) => id))
      cursor = page.nextCursor ?? undefined
    } while (cursor)
    expect(paged).toEqual(ids)
    await expect(list({ cursor: 'nonsense' })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('name, labels and time change; a name that is taken away leads to what had it before', async () => {
    const { engine } = await openForTest()
    const { tenant } = OWNER
    const box = await make(engine)
    const old = await take(engine, box.id, { name: 'same', ttlMs: 60_000 })
    const newer = await take(engine, box.id, { name: 'same' })
    const changed = await engine.snapshots.change(newer.id, tenant, { name: null, labels: { a: '1' }, ttlMs: 1000 })
    expect(changed).toMatchObject({ labels: { a: '1' } })
    expect(changed.name).toBeUndefined()
    expect((await engine.snapshots.get('same', tenant)).id).toBe(old.id)
    expect((await engine.snapshots.change(old.id, tenant, { ttlMs: null })).expiresAt).toBeNull()
    await engine.snapshots.remove(old.id, tenant)
    await expect(engine.snapshots.get('same', tenant)).rejects.toMatchObject({ code: 'not_found' })
    await expect(engine.snapshots.remove(old.id, tenant)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('is there after a restart, and what nobody was told of is not', async () => {
    const { engine, host, reopen } = await openForTest()
    const box = await make(engine)
    await write(engine, box.id, '/data', 'kept')
    const snapshot = await take(engine, box.id, { name: 'kept', memory: false })
    const [seal] = host.seals.values()
    if (seal) host.seals.set('s_half_made', seal)
    await using again = await reopen()
    expect([...host.seals.keys()]).not.toContain('s_half_made')
    expect(host.seals.size).toBe(1)
    expect((await again.engine.snapshots.get('kept', OWNER.tenant)).id).toBe(snapshot.id)
    const restored = await restore(again.engine, 'kept')
    expect(await read(again.engine, restored.id, '/data')).toBe('kept')
  })

  test('is bounded by the quota of the key', async () => {
    const { engine } = await openForTest()
    const owner = { ...OWNER, quota: { storageMb: 1 } }
    const box = await make(engine, {}, owner)
    await sh(engine, box.id, 'head -c 700000 /dev/urandom > /big')
    await take(engine, box.id, { memory: false }, owner)
    await take(engine, box.id, { memory: false }, owner)
    await sh(engine, box.id, 'head -c 700000 /dev/urandom > /more')
    await expect(take(engine, box.id, { memory: false }, owner)).rejects.toMatchObject({ code: 'quota_exceeded' })
    const { items } = await engine.snapshots.list({ tenant: OWNER.tenant, limit: 10 })
    expect(items).toHaveLength(2)
    const usage = await engine.usage({ tenant: OWNER.tenant, since: new Date(0), until: new Date() })
    expect(usage).toEqual([expect.objectContaining({ keyId: OWNER.keyId, storageBytes: expect.any(Number) })])
    expect(usage[0]?.storageBytes).toBe(items.reduce((sum, { addedBytes }) => sum + addedBytes, 0))
  })

  test('an instance without a state has none to keep', async () => {
    const { engine } = await openForTest()
    const box = await make(engine)
    await engine.instances.stop(box.id, OWNER.tenant)
    await expect(take(engine, box.id)).rejects.toMatchObject({ code: 'instance_stopped' })
    await expect(take(engine, 'nobody')).rejects.toMatchObject({ code: 'not_found' })
  })

  test('where the runtime keeps no states, that is said', async () => {
    const { engine } = await openForTest({ runtime: { capabilities: { seals: false, checkpoint: false } } })
    const box = await make(engine)
    await expect(take(engine, box.id)).rejects.toMatchObject({ code: 'unsupported' })
    const without = await openForTest({ runtime: { capabilities: { checkpoint: false } } })
    const other = await make(without.engine)
    await expect(take(without.engine, other.id, { memory: true })).rejects.toMatchObject({ code: 'unsupported' })
    expect((await take(without.engine, other.id)).memory).toBeUndefined()
  })
})

describe('another node of the same store', () => {
  test('finds it by hash and by name, and continues it: files and processes', async () => {
    const blobs = memoryStore()
    const first = await openForTest({ blobs })
    const box = await make(first.engine, { env: { WHO: 'me' } })
    await write(first.engine, box.id, '/data', 'kept')
    await startNotes(first.engine, box.id)
    await note(first.engine, box.id, 'a')
    const snapshot = await take(first.engine, box.id, { name: 'step' })

    const second = await openForTest({ blobs, like: first.host })
    expect((await second.engine.snapshots.get('step', OWNER.tenant)).id).toBe(snapshot.id)
    const restored = await restore(second.engine, snapshot.id.slice(0, 10), { memory: true })
    expect(await note(second.engine, restored.id, 'b')).toBe('ab')
    expect(await read(second.engine, restored.id, '/data')).toBe('kept')
    expect((await sh(second.engine, restored.id, 'echo $WHO')).stdout).toBe('me\n')
    await expect(second.engine.snapshots.get('step', STRANGER.tenant)).rejects.toMatchObject({ code: 'not_found' })
    const child = await take(second.engine, restored.id)
    expect(child.parent).toBe(snapshot.id)
  })

  test('that cannot run its memory says why, and has the files', async () => {
    const blobs = memoryStore()
    const first = await openForTest({ blobs })
    const box = await make(first.engine)
    await write(first.engine, box.id, '/data', 'kept')
    await take(first.engine, box.id, { name: 'step', memory: true })
    const second = await openForTest({ blobs, runtime: { capabilities: { checkpoint: false } } })
    await expect(restore(second.engine, 'step', { memory: true })).rejects.toMatchObject({
      code: 'snapshot_incompatible',
    })
    const restored = await restore(second.engine, 'step')
    expect(await read(second.engine, restored.id, '/data')).toBe('kept')
  })
})
