import { Queue as BullQueue, Worker } from 'bullmq'
import { jobBody, jobResult } from '../payload.ts'
import { QUEUE, type Queue } from './queue.ts'

const connectionOf = (url: string) => ({ host: '127.0.0.1', port: Number(new URL(url).port) })
/** Completed jobs stay for a while, as ours do: their results are read. */
const KEPT = 5000

export const openBullmq = async (url: string): Promise<Queue> => {
  const queue = new BullQueue(QUEUE, { connection: connectionOf(url) })
  await queue.waitUntilReady()
  const options = { removeOnComplete: { count: KEPT } }
  return {
    submit: async (count) => {
      if (count === 1) await queue.add('job', jobBody, options)
      else await queue.addBulk(Array.from({ length: count }, () => ({ name: 'job', data: jobBody, opts: options })))
    },
    latencies: async (sinceMs) => {
      const jobs = await queue.getJobs('completed', 0, KEPT)
      return jobs.flatMap(({ finishedOn = 0, timestamp }) => (finishedOn >= sinceMs ? [finishedOn - timestamp] : []))
    },
    [Symbol.asyncDispose]: () => queue.close(),
  }
}

/** Workers complete one job at a time, `concurrency` at once; each completion brings the next job with it. */
export const consumeBullmq = async (
  url: string,
  concurrency: number,
  onDone: (count: number) => void,
): Promise<AsyncDisposable> => {
  const worker = new Worker(QUEUE, async () => jobResult, { connection: connectionOf(url), concurrency })
  worker.on('completed', () => onDone(1))
  worker.on('error', (error) => {
    throw error
  })
  await worker.waitUntilReady()
  return { [Symbol.asyncDispose]: () => worker.close() }
}
