import type { JobEvent } from '@bramble/protocol'
import { openTestNetwork, type TestNetwork } from '@bramble/worker/testing'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyReceipts } from '../index.ts'

let at: TestNetwork
beforeAll(async () => {
  at = await openTestNetwork()
  for (let node = 0; node < 3; node++) await at.join()
})
afterAll(() => at[Symbol.asyncDispose]())

test('events tell a job from its submission to its verdict, and nothing of a result before', async () => {
  const { jobs } = at.client
  const { id } = await jobs.submit({ command: 'echo hello', consensus: 3 })
  const seen = await Array.fromAsync(jobs.events(id))
  const last = seen.at(-1)
  expect(seen.some((event) => event.type === 'stdout')).toBe(false)
  expect(seen.filter((event) => event.type === 'job' && event.job.status !== 'completed')).not.toContainEqual(
    expect.objectContaining({ job: expect.objectContaining({ resultHash: expect.anything() }) }),
  )
  expect(last).toMatchObject({ type: 'job', job: { status: 'completed', result: { exitCode: 0 } } })
  expect(await jobs.executions(id)).toHaveLength(3)
})

test('the output of a job that one node decides comes while it runs', async () => {
  const { jobs } = at.client
  const { id } = await jobs.submit({ command: 'echo first; sleep 1000', redundancy: 1, consensus: 1 })
  let ended: JobEvent | undefined
  for await (const event of jobs.events(id)) {
    ended = event
    if (event.type === 'stdout') {
      expect(event.data).toBe('first\n')
      await jobs.cancel(id)
    }
  }
  expect(ended).toMatchObject({ job: { status: 'cancelled' } })
  expect(await jobs.cancel(id)).toMatchObject({ status: 'cancelled' })
})

test('a wait outlives the coordinator that it asked', async () => {
  const { jobs } = at.client
  const { id } = await jobs.submit({ command: 'true', resources: { cpus: 64 } })
  const events = jobs.events(id)[Symbol.asyncIterator]()
  await events.next()
  const wait = jobs.wait(id)
  await at.restartFront()
  await jobs.cancel(id)
  expect(await wait).toMatchObject({ status: 'cancelled' })
  let last: IteratorResult<JobEvent> = await events.next()
  for (let step = last; !step.done; step = await events.next()) last = step
  expect(last.value).toMatchObject({ type: 'job', job: { status: 'cancelled' } })
})

test('the same submission under one key is one job, and another under it is refused', async () => {
  const { jobs } = at.client
  const idempotencyKey = 'the-same'
  const first = await jobs.submit({ command: 'true' }, { idempotencyKey })
  expect((await jobs.submit({ command: 'true' }, { idempotencyKey })).id).toBe(first.id)
  await expect(jobs.submit({ command: 'false' }, { idempotencyKey })).rejects.toMatchObject({
    code: 'idempotency_mismatch',
  })
})

test('evidence of a network holds, and does not hold for another result', async () => {
  const { jobs } = at.client
  const [one, other] = await Promise.all(
    ['echo one', 'echo other'].map(async (command) => jobs.wait((await jobs.submit({ command })).id)),
  )
  if (one === undefined || other === undefined) throw new Error('two jobs')
  expect(await jobs.verify(one.id, { consensus: 2 })).toMatchObject({ valid: true, resultChecked: true })
  const evidence = await jobs.receipts(one.id)
  const swapped = verifyReceipts(evidence, { job: { ...one, result: other.result } })
  expect(swapped.faults).toMatchObject([{ code: 'result_differs' }])
})

test('nodes are paged and told apart, and so are the records of what they did', async () => {
  const { network } = at.client
  const nodes = await network.nodes({ limit: 2 }).all()
  expect(new Set(nodes.map(({ id }) => id)).size).toBe(3)
  const records = await Promise.all(nodes.map(({ id }) => network.reputation(id, { limit: 1 }).all()))
  // All of them are on this machine, so that none proves another right.
  expect(new Set(records.flat().map(({ kind }) => kind))).toContain('alone')
  const { nodes: counts } = await network.stats()
  expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBe(3)
})
