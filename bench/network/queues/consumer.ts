/** A process of workers: says how many jobs were done, a hundred times a second, until it is disconnected. */
import { consumeBullmq } from './bullmq.ts'
import { consumePgBoss } from './pg-boss.ts'
import type { ConsumerOptions } from './queue.ts'

const CONCURRENCY = 64
const CONNECTIONS = 8

const { kind, url, fetchMax, wake }: ConsumerOptions = JSON.parse(process.argv[2] ?? '{}')
let done = 0
const onDone = (count: number): void => {
  done += count
}
const tell = setInterval(() => {
  if (done === 0) return
  process.send?.({ done })
  done = 0
}, 10)
const workers =
  kind === 'bullmq'
    ? await consumeBullmq(url, CONCURRENCY, onDone)
    : await consumePgBoss(url, { fetchMax, wake, connections: CONNECTIONS }, onDone)
process.send?.({ ready: true })
process.once('disconnect', async () => {
  clearInterval(tell)
  await workers[Symbol.asyncDispose]()
  process.exit()
})
