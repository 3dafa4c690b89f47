import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestNode, type TestNode } from '../../test/test-node.ts'
import { Bramble, type Instance, MergeConflictError } from '../index.ts'
import { exportSnapshot, importSnapshot } from '../node/index.ts'

let node: TestNode
let elsewhere: TestNode
let bramble: Bramble
let other: Bramble
let directory: string
beforeAll(async () => {
  ;[node, elsewhere] = await Promise.all([openTestNode(), openTestNode()])
  bramble = new Bramble({ url: node.url, apiKey: node.key })
  other = new Bramble({ url: elsewhere.url, apiKey: elsewhere.key })
  directory = await mkdtemp(join(tmpdir(), 'bramble-sdk-snapshots-'))
})
afterAll(async () => {
  await Promise.all([node[Symbol.asyncDispose](), elsewhere[Symbol.asyncDispose]()])
  await rm(directory, { recursive: true, force: true })
})

const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0)
const sh = (box: Instance, command: string): Promise<string> => box.exec(command).text()

test('a state is kept, found, compared, and gone on from', async () => {
  await using box = await bramble.instances.start()
  await sh(box, 'echo one > /tmp/file')
  const before = await box.snapshot({ name: 'before', memory: false, labels: { a: 'b' } })
  await sh(box, 'echo two > /tmp/second')
  const after = await bramble.snapshots.create(box, { memory: false })
  expect(await bramble.snapshots.get('before')).toEqual(before)
  expect((await bramble.snapshots.list({ source: box }).all()).map(({ id }) => id)).toEqual([after.id, before.id])
  expect(await bramble.snapshots.list({ label: 'a=b', name: 'before' }).all()).toEqual([before])
  const { items } = await bramble.snapshots.diff(before, after)
  expect(items.filter(({ type }) => type === 'file')).toMatchObject([{ path: 'tmp/second', change: 'added' }])
  expect(await bramble.snapshots.change(before, { name: 'start', labels: {} })).toMatchObject({ name: 'start' })

  let id: string
  {
    await using again = await bramble.snapshots.restore(before, { memory: false })
    id = again.id
    expect(again.info.parent).toBe(before.id)
    expect(await sh(again, 'cat /tmp/file; ls /tmp')).toBe('one\nfile\n')
  }
  // It was made here, so it goes with its scope.
  await expect(bramble.instances.get(id)).rejects.toMatchObject({ code: 'not_found' })
  await bramble.snapshots.remove(before)
  await expect(bramble.snapshots.get(before)).rejects.toMatchObject({ code: 'not_found' })
})

test('branches are instances; a merge folds them, and throws where they do not agree', async () => {
  await using box = await bramble.instances.start()
  await sh(box, 'echo base > /tmp/shared')
  const [left, right] = (await box.branch(2, { memory: false })) as [Instance, Instance]
  await using _left = left
  await using _right = right
  await Promise.all([sh(left, 'echo l > /tmp/left'), sh(right, 'echo r > /tmp/right')])
  const { snapshot, conflicts } = await bramble.merge({ branches: [left, right], base: box })
  expect(conflicts).toEqual([])
  await using merged = await bramble.snapshots.restore(snapshot)
  expect(await sh(merged, 'cat /tmp/left /tmp/right')).toBe('l\nr\n')

  await Promise.all([sh(left, 'echo l > /tmp/shared'), sh(right, 'echo r > /tmp/shared')])
  const failed = await bramble.merge({ branches: [left, right] }).catch((error: unknown) => error)
  expect(failed).toBeInstanceOf(MergeConflictError)
  expect(failed).toMatchObject({ code: 'merge_conflict', conflicts: [{ path: 'tmp/shared' }] })
  expect(String(failed)).toContain('tmp/shared (content)')
  const outcome = await bramble.merge({ branches: [left, right], check: false })
  expect(outcome).toMatchObject({ totals: { conflicts: 1 } })
  expect(outcome.snapshot).toBeUndefined()
  const settled = await bramble.merge({ branches: [left, right], strategy: 'ours' })
  expect(settled.conflicts).toMatchObject([{ settled: 'ours' }])

  const made = await bramble.branches.create(box, { commands: ['cat /tmp/shared', 'exit 4'], memory: false })
  expect(made.items.map(({ result }) => result?.exitCode)).toEqual([0, 4])
  expect(made.items[0]?.result?.stdout).toBe('base\n')
  const ids = (await bramble.branches.list({ parent: box }).all()).map(({ instanceId }) => instanceId as string)
  const others = made.items.map(({ instance }) => instance.id)
  // What continues from the merge descends from it, too.
  expect(ids.toSorted()).toEqual([left.id, right.id, merged.id, ...others].toSorted())
  for (const { instance } of made.items) await instance.delete()
})

test('a fork runs in a branch; forks are descriptions, for map and race too', async () => {
  await using box = await bramble.instances.start()
  await sh(box, 'echo here > /tmp/file')
  const fork = bramble.fork(box).env('WHO', 'me')
  const [first, second] = await Promise.all([fork.run('cat /tmp/file; rm /tmp/file'), fork.run('echo $WHO')])
  expect([first.stdout, second.stdout]).toEqual(['here\n', 'me\n'])
  expect(first.mode).toBe('branched')
  expect(await bramble.race(['exit 1', 'cat /tmp/file'].map((command) => fork.command(command)))).toMatchObject({
    index: 1,
    stdout: 'here\n',
  })
  let output = ''
  for await (const event of fork.command('cat /tmp/file').stream()) if (event.type === 'stdout') output += event.data
  expect(output).toBe('here\n')
  const [left, right] = await Promise.all([fork.run('echo l > /tmp/l'), fork.run('echo r > /tmp/r')])
  const { snapshot } = await bramble.merge({ branches: [left, right] })
  expect((await bramble.fork(snapshot).run('cat /tmp/file /tmp/l /tmp/r')).stdout).toBe('here\nl\nr\n')
  await expect(fork.send()).rejects.toMatchObject({ code: 'invalid_request' })
})

test('an execution that leaves a state is gone on from', async () => {
  const left = await bramble.execute('echo step > /tmp/step').mode('checkpointed').send()
  expect(left.snapshotId).toMatch(/^[0-9a-f]{64}$/)
  const next = await bramble.execute('cat /tmp/step').mode('checkpointed').from(left).send()
  expect(next.stdout).toBe('step\n')
  expect((await bramble.fork(left).run('cat /tmp/step')).stdout).toBe('step\n')
})

test('an export goes to another node, as a stream and as a file, and its bytes are counted', async () => {
  await using box = await bramble.instances.start()
  await sh(box, 'echo carried > /tmp/file')
  const snapshot = await box.snapshot({ name: 'carry', memory: false })
  const out: number[] = []
  const back: number[] = []
  const again: number[] = []
  const path = join(directory, 'carry.bramble')
  await exportSnapshot(bramble, snapshot, path, { onBytes: (bytes) => out.push(bytes) })
  expect(sum(out)).toBe((await readFile(path)).length)
  const imported = await importSnapshot(other, path, { name: 'one', onBytes: (bytes) => back.push(bytes) })
  expect(sum(back)).toBe(sum(out))
  expect(imported).toMatchObject({ id: snapshot.id, name: 'one', origin: 'import' })

  const stream = await bramble.snapshots.export('carry')
  const whole = await new Response(stream).blob()
  await other.snapshots.import(whole, { name: 'two', onBytes: (bytes) => again.push(bytes) })
  expect(sum(again)).toBe(whole.size)

  await expect(exportSnapshot(bramble, 'nothing-has-this-name', join(directory, 'no'))).rejects.toMatchObject({
    code: 'not_found',
  })
  const aborted = AbortSignal.abort()
  await expect(exportSnapshot(bramble, snapshot, join(directory, 'no'), { signal: aborted })).rejects.toMatchObject({
    code: 'cancelled',
  })
  expect(await readdir(directory)).toEqual(['carry.bramble'])
  const nothing = 'no snapshot'
  await expect(other.snapshots.import(nothing)).rejects.toMatchObject({ code: 'import_refused' })
})

test('the live wire takes checkpoints', async () => {
  await using box = await bramble.instances.start()
  await using stream = await box.stream({ processes: false })
  const id = await stream.checkpoint({ name: 'from-stream', memory: false })
  expect(await bramble.snapshots.get('from-stream')).toMatchObject({ id, source: box.id })
  await expect(stream.checkpoint({ name: '0 no name' })).rejects.toMatchObject({ code: 'invalid_request' })
})

test('what is paused with a snapshot says which', async () => {
  await using box = await bramble.instances.start()
  await box.pause({ snapshot: true })
  expect(box.status).toBe('paused')
  expect(await bramble.snapshots.get(box.info.snapshotId ?? '')).toMatchObject({ source: box.id })
})

test('the store says what it holds', async () => {
  expect(await bramble.store.status()).toMatchObject({ blobs: expect.any(Number) })
  expect(await bramble.store.collect()).toMatchObject({ seals: expect.any(Number) })
})
