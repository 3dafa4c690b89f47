import { expect, test } from 'vitest'
import { make, note, OWNER, openForTest, read, restore, sh, startNotes, take, write } from './testing.ts'

const { tenant } = OWNER

const fileOf = async (source: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const pieces: Uint8Array[] = []
  for await (const piece of source) pieces.push(piece)
  return Buffer.concat(pieces)
}
async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 1000) yield bytes.subarray(at, at + 1000)
}

test('one file carries a snapshot to a node that shares nothing; its memory runs when someone vouches for it', async () => {
  const first = await openForTest()
  const box = await make(first.engine)
  await write(first.engine, box.id, '/data', 'kept')
  await startNotes(first.engine, box.id)
  await note(first.engine, box.id, 'a')
  const snapshot = await take(first.engine, box.id, { name: 'mine', memory: true })
  const file = await fileOf(await first.engine.snapshots.export('mine', tenant))

  const second = await openForTest({ like: first.host })
  const { snapshots } = second.engine
  const imported = await snapshots.import(piecesOf(file), { name: 'theirs' }, OWNER)
  expect(imported).toMatchObject({ id: snapshot.id, name: 'theirs', origin: 'import', memory: { trusted: false } })
  await expect(restore(second.engine, 'theirs', { memory: true })).rejects.toMatchObject({
    code: 'snapshot_incompatible',
  })
  const files = await restore(second.engine, 'theirs')
  expect(await read(second.engine, files.id, '/data')).toBe('kept')
  await expect(note(second.engine, files.id, 'b')).rejects.toThrow('nobody takes notes')

  const trusted = await snapshots.import(piecesOf(file), { trustMemory: true }, OWNER)
  expect(trusted.memory?.trusted).toBe(true)
  const running = await restore(second.engine, trusted.id)
  expect(await note(second.engine, running.id, 'b')).toBe('ab')
  // Once vouched for, the same bytes stay so.
  expect((await snapshots.import(piecesOf(file), {}, OWNER)).memory?.trusted).toBe(true)
})

test('an import of what is there changes nothing of it but what it asks for', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  const first = await take(engine, box.id, { memory: false })
  await write(engine, box.id, '/data', 'kept')
  const request = { name: 'mine', memory: false, labels: { a: '1' }, ttlMs: 3_600_000 }
  const snapshot = await take(engine, box.id, request)
  expect(snapshot.parent).toBe(first.id)
  const file = await fileOf(await engine.snapshots.export('mine', tenant))
  expect(await engine.snapshots.import(piecesOf(file), {}, OWNER)).toEqual(snapshot)
  const more = { name: 'other', labels: { b: '2' } }
  const changed = await engine.snapshots.import(piecesOf(file), more, OWNER)
  expect(changed).toEqual({ ...snapshot, name: 'other', labels: { a: '1', b: '2' } })
})

test('a file that is not whole changes nothing', async () => {
  const { engine, blobs } = await openForTest()
  const box = await make(engine)
  await write(engine, box.id, '/data', 'kept')
  await take(engine, box.id, { name: 'mine', memory: false })
  const file = await fileOf(await engine.snapshots.export('mine', tenant))
  const other = await openForTest()
  const cut = piecesOf(file.subarray(0, file.length - 20))
  await expect(other.engine.snapshots.import(cut, {}, OWNER)).rejects.toMatchObject({ code: 'import_refused' })
  expect((await other.engine.snapshots.list({ tenant, limit: 10 })).items).toEqual([])
  expect((await other.blobs.list()[Symbol.asyncIterator]().next()).done).toBe(true)
  expect((await blobs.list()[Symbol.asyncIterator]().next()).done).toBe(false)
})

test('a diff tells what one has that the other has not', async () => {
  const { engine } = await openForTest()
  const box = await make(engine)
  await sh(engine, box.id, 'mkdir /d; printf old > /d/changed; printf gone > /d/removed')
  const before = await take(engine, box.id, { memory: false })
  await sh(engine, box.id, 'printf newer > /d/changed; rm /d/removed; printf new > /d/added')
  const after = await take(engine, box.id, { name: 'after', memory: false })
  const diff = await engine.snapshots.diff(before.id, 'after', tenant)
  expect(diff).toMatchObject({ from: before.id, to: after.id, truncated: false })
  expect(diff.items.map(({ path, change }) => [path, change])).toEqual([
    ['d/added', 'added'],
    ['d/changed', 'changed'],
    ['d/removed', 'removed'],
  ])
  expect((await engine.snapshots.diff('after', 'after', tenant)).items).toEqual([])
  await expect(engine.snapshots.diff(before.id, 'after', 'other')).rejects.toMatchObject({ code: 'not_found' })
})
