import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { figuresOf, type Row, round } from '../run/measure.ts'
import { openBullmq } from './queues/bullmq.ts'
import { openPgBoss } from './queues/pg-boss.ts'
import type { ConsumerOptions, Queue } from './queues/queue.ts'
import { type Server, startPostgres, startRedis } from './servers.ts'

const CONSUMER = fileURLToPath(new URL('./queues/consumer.ts', import.meta.url))
/** Jobs that are submitted and not done, at most. */
const OPEN_MAX = 1000

/** Submits for some seconds, while a process of its own works; how many were done a second, and how long each took. */
const drive = async (queue: Queue, options: ConsumerOptions, each: number, seconds: number) => {
  const child = fork(CONSUMER, [JSON.stringify(options)])
  let open = 0
  let done = 0
  let waiting: (() => void)[] = []
  try {
    await once(child, 'message')
    child.on('message', (message: { done?: number }) => {
      open -= message.done ?? 0
      done += message.done ?? 0
      const woken = waiting
      waiting = []
      for (const wake of woken) wake()
    })
    const submitters = each > 1 ? 4 : 64
    const warmUntil = performance.now() + 2000
    const endAt = warmUntil + seconds * 1000
    let countedFrom = 0
    let measuredFrom = warmUntil
    const submit = async (): Promise<void> => {
      while (performance.now() < endAt) {
        while (open + each > OPEN_MAX) await new Promise<void>((resolve) => waiting.push(resolve))
        open += each
        await queue.submit(each)
        if (countedFrom === 0 && performance.now() >= warmUntil) {
          countedFrom = done
          measuredFrom = performance.now()
        }
      }
    }
    const startedAt = Date.now() + 2000
    await Promise.all(Array.from({ length: submitters }, submit))
    const perSecond = ((done - countedFrom) * 1000) / (performance.now() - measuredFrom)
    while (open > 0) await once(child, 'message')
    return { perSecond, latencies: await queue.latencies(startedAt) }
  } finally {
    if (child.connected) child.disconnect()
    if (child.exitCode === null) await once(child, 'exit')
  }
}

interface Way {
  readonly each: number
  readonly fetchMax: number
  readonly wake: boolean
  readonly called: string
}

interface Contender {
  readonly kind: ConsumerOptions['kind']
  readonly label: string
  readonly start: () => Promise<Server>
  readonly open: (url: string, wake: boolean) => Promise<Queue>
  /** How many jobs one call submits, and one fetch of a worker takes. */
  readonly ways: readonly Way[]
}

const CONTENDERS: readonly Contender[] = [
  {
    kind: 'bullmq',
    label: 'BullMQ on Redis, AOF everysec',
    start: startRedis,
    open: openBullmq,
    ways: [
      { each: 1, fetchMax: 1, wake: true, called: 'each job by itself' },
      { each: 200, fetchMax: 1, wake: true, called: '200 a submission' },
    ],
  },
  {
    kind: 'pg-boss',
    label: 'pg-boss on PostgreSQL, fsync',
    start: startPostgres,
    open: openPgBoss,
    ways: [
      { each: 1, fetchMax: 1, wake: true, called: 'each job by itself' },
      { each: 1, fetchMax: 200, wake: false, called: 'each submitted by itself, polling, 200 a fetch' },
      { each: 200, fetchMax: 200, wake: true, called: '200 a submission, 200 a fetch' },
    ],
  },
]

/**
 * The queues that a Node team would pick, moving the same payloads: submitted by one process, worked on by another, completed
 * with a result; nothing is verified. Each job by itself, and then in batches, as far as each offers them.
 */
export const queues = async ({ quick }: { quick: boolean }): Promise<Row[]> => {
  const rows: Row[] = []
  for (const { kind, label, start, open, ways } of CONTENDERS)
    for (const { each, fetchMax, wake, called } of ways) {
      await using server = await start()
      await using queue = await open(server.url, wake)
      const { perSecond, latencies } = await drive(
        queue,
        { kind, url: server.url, fetchMax, wake },
        each,
        quick ? 3 : 20,
      )
      rows.push({
        name: `${label}: ${called}`,
        figures: { perSecond: round(perSecond, 0), ...figuresOf(latencies), unit: 'ms' },
      })
    }
  return rows
}
