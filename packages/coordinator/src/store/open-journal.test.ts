import { BrambleError } from '@bramble/protocol'
import { describe, expect, test } from 'vitest'
import { aJob, aNodeId, anEntry, aRemark, ended } from '../testing/records.ts'
import { type JournalOptions, openJournal } from './open-journal.ts'
import type { Batch } from './store.ts'

/** A disk whose writes end when the test says so. */
const slowDisk = () => {
  const batches: Batch[] = []
  const writes: PromiseWithResolvers<void>[] = []
  const append = (_epoch: number, batch: Batch): Promise<void> => {
    batches.push(JSON.parse(JSON.stringify(batch)))
    const write = Promise.withResolvers<void>()
    writes.push(write)
    return write.promise
  }
  const begun = async (count: number) => expect.poll(() => writes.length, { interval: 1 }).toBe(count)
  return { batches, writes, begun, store: { append } }
}

const open = (disk: ReturnType<typeof slowDisk>, more: Partial<JournalOptions> = {}) =>
  openJournal({ store: disk.store, epoch: 1, seq: 0, now: () => 7, ...more })

const settled = async (promise: Promise<void>): Promise<boolean> =>
  Promise.race([promise.then(() => true), new Promise<boolean>((resolve) => setImmediate(resolve, false))])

describe('a journal', () => {
  test('writes what one turn brings as one batch, and all that comes meanwhile as the next', async () => {
    const disk = slowDisk()
    const journal = open(disk, { seq: 41 })
    expect([journal.log('a'), journal.log('b')]).toEqual([42, 43])
    const first = journal.durable()
    await disk.begun(1)
    journal.log('c')
    const second = journal.durable()
    journal.log('d')
    const third = journal.durable()
    expect(await settled(first)).toBe(false)
    disk.writes[0]?.resolve()
    await first
    await disk.begun(2)
    expect(await settled(second)).toBe(false)
    disk.writes[1]?.resolve()
    await Promise.all([second, third])
    expect(disk.batches).toMatchObject([
      { seq: 42, at: 7, log: ['a', 'b'] },
      { seq: 44, log: ['c', 'd'] },
    ])
    expect(journal.seq).toBe(45)
  })

  test('waits for what is being written, and for nothing where there is nothing', async () => {
    const disk = slowDisk()
    const journal = open(disk)
    await journal.durable()
    journal.log('a')
    await disk.begun(1)
    const noted = journal.durable()
    expect(await settled(noted)).toBe(false)
    disk.writes[0]?.resolve()
    await noted
    await journal.durable()
    expect(disk.batches).toHaveLength(1)
  })

  test('keeps the latest of a job and of a document, and all entries', async () => {
    const disk = slowDisk()
    const journal = open(disk)
    const job = aJob()
    const idempotency = { key: 'k', digest: 'd' }
    journal.add({ jobs: [{ state: job, idempotency }], documents: [{ kind: 'node', id: 'a', value: 1 }] })
    journal.add({ jobs: [{ state: ended(job) }], documents: [{ kind: 'node', id: 'a', value: 2 }] })
    journal.add({ documents: [{ kind: 'key', id: 'a', value: 3 }] })
    for (const n of [1, 2]) {
      journal.add({ reputation: [aRemark(n, aNodeId(1))], ledger: [anEntry(n, 'issuer', 'tenant:acme', 1)] })
    }
    journal.checkpoint(5)
    const written = journal.durable()
    await disk.begun(1)
    disk.writes[0]?.resolve()
    await written
    const [batch] = disk.batches
    expect(batch).toMatchObject({
      seq: 1,
      log: [],
      checkpoint: 5,
      jobs: [{ state: { status: 'completed' }, idempotency }],
    })
    expect(batch?.documents).toEqual([
      { kind: 'node', id: 'a', value: 2 },
      { kind: 'key', id: 'a', value: 3 },
    ])
    expect([batch?.reputation.length, batch?.ledger.length]).toEqual([2, 2])
  })

  test('that cannot write is dead: everybody who waits is told, nothing more is written, and its owner hears of it', async () => {
    const disk = slowDisk()
    const deaths: unknown[] = []
    const journal = open(disk, { onDead: (error) => deaths.push(error) })
    journal.log('a')
    const first = journal.durable()
    await disk.begun(1)
    journal.log('b')
    const second = journal.durable()
    const lost = new BrambleError('not_leader', { detail: 'another one writes' })
    disk.writes[0]?.reject(lost)
    await expect(first).rejects.toBe(lost)
    await expect(second).rejects.toBe(lost)
    await expect(journal.durable()).rejects.toBe(lost)
    journal.log('c')
    await expect(journal.durable()).rejects.toBe(lost)
    await journal.close()
    expect(deaths).toEqual([lost])
    expect(disk.batches).toHaveLength(1)
  })

  test('is full while more waits than it may keep', async () => {
    const disk = slowDisk()
    const journal = open(disk, { maxUnflushedRecords: 3 })
    journal.log('a')
    await disk.begun(1)
    journal.log('b')
    expect(journal.full).toBe(false)
    journal.log('c')
    expect(journal.full).toBe(true)
    disk.writes[0]?.resolve()
    await disk.begun(2)
    expect(journal.full).toBe(false)
    disk.writes[1]?.resolve()
    await journal.close()
  })

  test('writes what was noted before it closes, and nothing after', async () => {
    const disk = slowDisk()
    const journal = open(disk)
    journal.log('a')
    await disk.begun(1)
    journal.log('b')
    const closed = journal.close()
    disk.writes[0]?.resolve()
    await disk.begun(2)
    disk.writes[1]?.resolve()
    await closed
    await journal.durable()
    journal.add({ documents: [{ kind: 'node', id: 'a', value: 1 }] })
    await expect(journal.durable()).rejects.toMatchObject({ code: 'shutting_down' })
    await journal.close()
    expect(disk.batches).toMatchObject([{ log: ['a'] }, { log: ['b'] }])
  })
})
