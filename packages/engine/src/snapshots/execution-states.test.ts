import type { ExecutionResult, ExecutionSpecInput } from '@bramble/protocol'
import { expect, test } from 'vitest'
import { spec } from '../testing.ts'
import { make, OWNER, openForTest, read, restore, sh, type TestNodeOptions, take, write } from './testing.ts'

const open = async (options: TestNodeOptions = {}) => {
  const node = await openForTest(options)
  const run = (input: ExecutionSpecInput): Promise<ExecutionResult> => node.engine.execute(spec(input), OWNER).result
  return { ...node, run }
}

test('checkpointed: the state at the end is a snapshot, and the next one begins with it', async () => {
  const { engine, run } = await open()
  const first = await run({ command: 'echo 1 > /step', mode: 'checkpointed', labels: { job: 'train' } })
  expect(first).toMatchObject({ status: 'succeeded', mode: 'checkpointed', snapshotId: expect.any(String) })
  const second = await run({
    command: 'cat /step; echo 2 >> /step',
    mode: 'checkpointed',
    ...(first.snapshotId && { checkpoint: first.snapshotId }),
  })
  expect(second.stdout).toBe('1\n')
  const third = await run({ command: 'cat /step', checkpoint: second.snapshotId ?? '' })
  expect(third).toMatchObject({ status: 'succeeded', stdout: '1\n2\n' })
  expect(third.snapshotId).toBeUndefined()
  expect(await engine.snapshots.get(second.snapshotId ?? '', OWNER.tenant)).toMatchObject({
    origin: 'execution',
    source: second.id,
    parent: first.snapshotId,
  })
})

test('a command that fails leaves its state, too; one that is stopped leaves none', async () => {
  const { run } = await open()
  const failed = await run({ command: 'echo there > /mark; exit 3', mode: 'checkpointed' })
  expect(failed).toMatchObject({ status: 'failed', exitCode: 3 })
  expect((await run({ command: 'cat /mark', checkpoint: failed.snapshotId ?? '' })).stdout).toBe('there\n')
  const late = await run({ command: 'sleep 60', mode: 'checkpointed', resources: { timeoutMs: 20 } })
  expect(late).toMatchObject({ status: 'timeout' })
  expect(late.snapshotId).toBeUndefined()
})

test('branched: from an instance, a snapshot or an execution, which go on undisturbed', async () => {
  const { engine, run } = await open()
  const box = await make(engine, { env: { WHO: 'parent' } })
  await write(engine, box.id, '/data', 'base')
  const snapshot = await take(engine, box.id, { memory: false })

  const one = await run({ command: 'cat /data; printf %s $WHO; echo one > /data', mode: 'branched', parent: box.id })
  expect(one).toMatchObject({ status: 'succeeded', stdout: 'baseparent', snapshotExpiresAt: expect.any(String) })
  const left = await engine.snapshots.get(one.snapshotId ?? '', OWNER.tenant)
  expect(left.expiresAt).toBe(one.snapshotExpiresAt)
  expect(Date.parse(left.expiresAt ?? '') - Date.parse(left.createdAt)).toBe(24 * 3_600_000)
  const change = { labels: { a: 'b' } }
  expect((await engine.snapshots.change(left.id, OWNER.tenant, change)).expiresAt).toBe(left.expiresAt)
  expect((await engine.snapshots.change(left.id, OWNER.tenant, { name: 'kept' })).expiresAt).toBeNull()
  const two = await run({ command: 'cat /data', mode: 'branched', parent: snapshot.id })
  expect(two.stdout).toBe('base')
  const three = await run({ command: 'cat /data', mode: 'branched', parent: one.id })
  expect(three.stdout).toBe('one\n')
  expect(await read(engine, box.id, '/data')).toBe('base')

  const merged = await engine.snapshots.merge({ branches: [one.id, two.id], strategy: 'fail', labels: {} }, OWNER)
  expect(merged.conflicts).toEqual([])
  const restored = await restore(engine, merged.snapshot?.id ?? '')
  expect(await read(engine, restored.id, '/data')).toBe('one\n')
})

test('persistent with a checkpoint: an instance with its files', async () => {
  const { engine, run } = await open()
  const first = await run({ command: 'echo kept > /mark', mode: 'checkpointed' })
  const second = await run({ command: 'cat /mark', mode: 'persistent', checkpoint: first.snapshotId ?? '' })
  expect(second.stdout).toBe('kept\n')
  expect((await sh(engine, second.instanceId ?? '', 'cat /mark')).stdout).toBe('kept\n')
})

test('what cannot be continued is said before anything runs', async () => {
  const { run } = await open()
  await expect(run({ command: 'true', checkpoint: 'nowhere' })).rejects.toMatchObject({ code: 'not_found' })
  await expect(run({ command: 'true', mode: 'branched' })).rejects.toMatchObject({ code: 'invalid_request' })
  const plain = await run({ command: 'true' })
  await expect(run({ command: 'true', mode: 'branched', parent: plain.id })).rejects.toMatchObject({ code: 'conflict' })
  await expect(async () => run({ command: 'true', parent: plain.id })).rejects.toMatchObject({ code: 'unsupported' })
})

test('where the state cannot be kept, the result says so and is there', async () => {
  const { run } = await open()
  const owner = { ...OWNER, quota: { storageMb: 1 } }
  expect((await run({ command: 'true', mode: 'checkpointed' })).snapshotId).toBeDefined()
  const { engine } = await open()
  const command = 'head -c 3000000 /dev/urandom > /big; echo done'
  const result = await engine.execute(spec({ command, mode: 'checkpointed' }), owner).result
  expect(result).toMatchObject({ status: 'succeeded', stdout: 'done\n', message: expect.stringContaining('quota') })
  expect(result.snapshotId).toBeUndefined()
})
