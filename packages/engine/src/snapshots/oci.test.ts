import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BlobStore, memoryStore } from '@bramble/blobs'
import { makeTestImage, type TestImage } from '@bramble/runtime/testing'
import { afterAll, afterEach, beforeAll, beforeEach, expect, type TestContext, test } from 'vitest'
import type { Engine } from '../engine.ts'
import { type InstanceNode, openInstanceNode, removeAll } from '../instances/testing.ts'
import { spec } from '../testing.ts'
import { branch, make, merge, note, OWNER, read, restore, sh, startNotes, take, write } from './testing.ts'

/** The same against the real thing: containers, btrfs, CRIU. */

let directory = ''
let image: TestImage
let node: InstanceNode
let blobs: BlobStore
let skip: string | undefined
let engine: Engine

const openNode = async (at: string): Promise<InstanceNode> => {
  const opened = await openInstanceNode(at, image, { blobs, limits: { stopGraceMs: 500 } })
  if (!('skip' in opened)) return opened
  skip = opened.skip
  throw new Error(skip)
}

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'bramble-snapshots-'))
  image = await makeTestImage()
  blobs = memoryStore()
  const opened = await openInstanceNode(join(directory, 'one'), image, { blobs, limits: { stopGraceMs: 500 } })
  if ('skip' in opened) skip = opened.skip
  else if (opened.runtime.capabilities.checkpoint) node = opened
  else {
    skip = 'this host saves no memory'
    await opened.close()
  }
})
beforeEach((context: TestContext) => {
  if (skip !== undefined) context.skip(skip)
  ;({ engine } = node)
})
afterEach(async () => {
  if (skip === undefined) await removeAll(node)
})
afterAll(async () => {
  if (skip === undefined) await node.close()
  await image?.[Symbol.asyncDispose]()
  rmSync(directory, { recursive: true, force: true })
})

test('branches of a shell that runs go on with what it knew, each by itself', async () => {
  const box = await make(engine)
  await write(engine, box.id, '/tmp/data', 'base')
  await startNotes(engine, box.id)
  expect(await note(engine, box.id, 'a')).toBe('a')
  const { items, frozenMs } = await branch(engine, { parent: box.id, count: 3, memory: true })
  expect(frozenMs).toBeGreaterThan(0)
  expect(await note(engine, box.id, 'b')).toBe('ab')
  for (const [index, { instanceId }] of items.entries()) {
    expect(await note(engine, instanceId, `${index}`)).toBe(`a${index}`)
    expect(await read(engine, instanceId, '/tmp/data')).toBe('base')
  }
  const names = await Promise.all(items.map(({ instanceId }) => sh(engine, instanceId, 'hostname')))
  expect(new Set(names.map(({ stdout }) => stdout)).size).toBe(3)
})

test('a command that runs, and its client, notice nothing of a snapshot', async () => {
  const box = await make(engine)
  using lease = await engine.instances.use(box.id, OWNER.tenant)
  const command = 'for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done'
  const running = lease.exec({ command, env: {} }, { signal: new AbortController().signal, stream: true })
  let output = ''
  let taken: ReturnType<typeof take> | undefined
  for await (const event of running)
    if (event.type === 'stdout') {
      output += Buffer.from(event.data).toString()
      taken ??= take(engine, box.id, { memory: true })
    }
  expect(output).toBe('1\n2\n3\n4\n5\n6\n7\n8\n')
  expect((await taken)?.memory?.processes.some(({ command }) => command.includes('for i in'))).toBe(true)
})

test('paused into a snapshot, it goes on where it was, on this node and on another', async () => {
  const box = await make(engine)
  await startNotes(engine, box.id)
  await note(engine, box.id, 'a')
  const { snapshotId = '' } = await engine.snapshots.pause(box.id, OWNER)
  expect(await node.runtime.list()).toEqual([])
  expect(await note(engine, box.id, 'b')).toBe('ab')

  const other = await openNode(join(directory, 'two'))
  try {
    const restored = await restore(other.engine, snapshotId)
    expect(await note(other.engine, restored.id, 'c')).toBe('ac')
    await removeAll(other)
  } finally {
    await other.close()
  }
})

test('files alone: branches, a merge, and what an instance began as', async () => {
  const box = await make(engine)
  await sh(engine, box.id, 'mkdir /tree; echo base > /tree/base; echo gone > /tree/gone')
  const { items } = await branch(engine, { parent: box.id, count: 2, memory: false })
  const [one = '', two = ''] = items.map(({ instanceId }) => instanceId)
  await sh(engine, one, 'echo one > /tree/one; rm /tree/gone')
  await sh(engine, two, 'echo two > /tree/two; echo more >> /tree/base')
  const { snapshot, conflicts } = await merge(engine, { branches: [one, two] })
  expect(conflicts).toEqual([])
  const merged = await restore(engine, snapshot?.id ?? '')
  expect((await sh(engine, merged.id, 'cd /tree; ls; cat *')).stdout).toBe('base\none\ntwo\nbase\nmore\none\ntwo\n')
})

test('executions begin as states and leave them', async () => {
  const first = await engine.execute(spec({ command: 'echo 1 > /step', mode: 'checkpointed' }), OWNER).result
  const second = await engine.execute(spec({ command: 'cat /step', checkpoint: first.snapshotId ?? '' }), OWNER).result
  expect(second).toMatchObject({ status: 'succeeded', stdout: '1\n' })
  const fork = spec({ command: 'cat /step; echo 2 > /step', mode: 'branched', parent: first.id })
  const third = await engine.execute(fork, OWNER).result
  expect(third).toMatchObject({ status: 'succeeded', stdout: '1\n', snapshotId: expect.any(String) })
})
