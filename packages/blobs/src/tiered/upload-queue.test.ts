import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { hashOf, text } from '../testing/bytes.ts'
import { openUploadQueue, type Task, type UploadQueue } from './upload-queue.ts'

const blob = (i: number, does: Task['does'] = 'put'): Task => ({ kind: 'blob', target: hashOf(text(i)), does })
const name = (target: string, does: Task['does'] = 'put'): Task => ({ kind: 'name', target, does })

const openIn = async (directory: string): Promise<UploadQueue> => {
  const queue = await openUploadQueue(directory, () => undefined)
  onTestFinished(() => queue.close())
  return queue
}
const newDirectory = async (): Promise<string> => {
  const directory = await mkdtemp(join(tmpdir(), 'bramble-queue-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}
const tasksOf = (queue: UploadQueue): Task[] => [...queue.all()].map(({ task }) => task)

test('what waits is there again, oldest first, the last word on each', async () => {
  const directory = await newDirectory()
  const queue = await openIn(directory)
  await Promise.all([1, 2, 3].map((i) => queue.add(blob(i), i)))
  await queue.add(blob(2), 2)
  await queue.add(name('a'), 0)
  await queue.add(name('a', 'remove'), 0)
  await queue.add(blob(1, 'remove'), 0)
  const [, second] = queue.all()
  if (second) expect(queue.done(second)).toBe(true)
  const expected = [blob(2), name('a', 'remove'), blob(1, 'remove')]
  expect(tasksOf(queue)).toEqual(expected)
  expect([queue.size, queue.storedBytes]).toEqual([3, 2])
  await queue.close()
  const next = await openIn(directory)
  expect(tasksOf(next)).toEqual(expected)
  expect([next.size, next.storedBytes]).toEqual([3, 2])
})

test('a task that was asked for again is not done yet', async () => {
  const queue = await openIn(await newDirectory())
  await queue.add(name('a'), 0)
  const [first] = queue.all()
  await queue.add(name('a'), 0)
  if (first) expect(queue.done(first)).toBe(false)
  const [second] = queue.all()
  if (second) expect(queue.done(second)).toBe(true)
  await queue.empty()
})

test('cut off or damaged anywhere, it opens: with what was whole', async () => {
  const directory = await newDirectory()
  const queue = await openIn(directory)
  for (let i = 0; i < 6; i++) await queue.add(blob(i), 1)
  await queue.close()
  const [file = ''] = await readdir(directory)
  const bytes = await readFile(join(directory, file))
  const whole = tasksOf(queue)
  for (let at = 0; at < bytes.length; at += 7) {
    const cut = await newDirectory()
    await writeFile(join(cut, file), bytes.subarray(0, at))
    const tasks = tasksOf(await openIn(cut))
    expect(tasks).toEqual(whole.slice(0, tasks.length))
    expect(tasks.length).toBeGreaterThanOrEqual(Math.floor((at / bytes.length) * 6) - 1)
    const damaged = await newDirectory()
    const other = Buffer.from(bytes)
    other.writeUInt8(other.readUInt8(at) ^ 4, at)
    await writeFile(join(damaged, file), other)
    const left = tasksOf(await openIn(damaged))
    for (const task of left) expect(whole).toContainEqual(task)
    expect(left.length).toBeGreaterThanOrEqual(4)
  }
})

test('files of what is done are removed', async () => {
  const directory = await newDirectory()
  const queue = await openIn(directory)
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 1000 }, (_, i) => queue.add(blob(round * 1000 + i), 1)))
    for (const waiting of [...queue.all()]) queue.done(waiting)
  }
  await queue.empty()
  await queue.close()
  expect((await readdir(directory)).length).toBeLessThan(4)
  expect(tasksOf(await openIn(directory))).toEqual([])
})

test('who waits for its end is told when it is closed, or enough is enough', async () => {
  const queue = await openIn(await newDirectory())
  await queue.add(blob(1), 1)
  const abort = new AbortController()
  const waits = [queue.empty(abort.signal), queue.empty()]
  abort.abort(new Error('enough'))
  await expect(waits[0]).rejects.toThrow('enough')
  const closed = expect(waits[1]).rejects.toMatchObject({ code: 'shutting_down' })
  await queue.close()
  await closed
  await expect(queue.empty()).rejects.toMatchObject({ code: 'shutting_down' })
})

test('a queue that cannot be written says so, and keeps nothing of it', async () => {
  const directory = await newDirectory()
  const queue = await openIn(directory)
  await rm(directory, { recursive: true })
  await expect(queue.add(blob(1), 1)).rejects.toMatchObject({ code: 'store_unavailable' })
  expect(queue.size).toBe(0)
  await mkdir(directory)
  await queue.add(blob(1), 1)
  expect(tasksOf(queue)).toEqual([blob(1)])
})
