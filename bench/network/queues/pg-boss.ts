import { PgBoss } from 'pg-boss'
import { jobBody, jobResult } from '../payload.ts'
import { QUEUE, type Queue } from './queue.ts'

/** Workers are woken by NOTIFY, which has commits wait for each other; or they poll twice a second, and go on while there is more. */
const open = async (url: string, wake: boolean): Promise<PgBoss> => {
  const boss = new PgBoss({ connectionString: url, useListenNotify: wake, schedule: false, max: 10 })
  boss.on('error', (error) => {
    throw error
  })
  await boss.start()
  await boss.createQueue(QUEUE, { notify: wake })
  return boss
}

export const openPgBoss = async (url: string, wake: boolean): Promise<Queue> => {
  const boss = await open(url, wake)
  return {
    submit: async (count) => {
      if (count === 1) await boss.send(QUEUE, jobBody)
      else
        await boss.insert(
          QUEUE,
          Array.from({ length: count }, () => ({ data: jobBody })),
        )
    },
    latencies: async (sinceMs) => {
      const { rows } = await boss.getDb().executeSql(
        `select extract(epoch from completed_on - created_on) * 1000 as ms from pgboss.job
         where name = $1 and state = 'completed' and completed_on >= to_timestamp($2) order by completed_on desc limit 5000`,
        [QUEUE, sinceMs / 1000],
      )
      return rows.map(({ ms }: { ms: string }) => Number(ms))
    },
    [Symbol.asyncDispose]: () => boss.stop({ graceful: false }),
  }
}

/** Each job has a result of its own, however many are fetched at once. */
export const consumePgBoss = async (
  url: string,
  options: { fetchMax: number; wake: boolean; connections: number },
  onDone: (count: number) => void,
): Promise<AsyncDisposable> => {
  const boss = await open(url, options.wake)
  const shared = { localConcurrency: options.connections, pollingIntervalSeconds: 0.5 }
  if (options.fetchMax > 1)
    await boss.work(
      QUEUE,
      { ...shared, batchSize: options.fetchMax, burstWhenBatchFull: true, perJobResults: true },
      async (jobs) => {
        // The next ones are submitted while the completion of these is written.
        onDone(jobs.length)
        return jobs.map(({ id }) => ({ id, status: 'completed' as const, output: jobResult }))
      },
    )
  else
    await boss.work(QUEUE, { ...shared, batchSize: 1 }, async () => {
      onDone(1)
      return jobResult
    })
  return { [Symbol.asyncDispose]: () => boss.stop({ graceful: false }) }
}
