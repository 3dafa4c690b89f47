import { setTimeout as delay } from 'node:timers/promises'
import { verifyReceipts } from '@bramble/identity'
import { wasmCurve } from '@bramble/identity/node'
import { type JobRequestInput, type JobStatus, jobEvidenceSchema, type NetworkStats } from '@bramble/protocol'
import type { HttpPool } from './http-pool.ts'

/** Jobs submitted over HTTP, and what was seen of them. Times are from when a request was due, whether or not it could be sent. */
export interface NetworkLoad {
  /** At this rate for so long, with one read of a recent job for every ten. */
  paced(perSecond: number, seconds: number): Promise<Paced>
  /** As fast as it goes, with at most `openMax` jobs that have not ended. */
  flatOut(seconds: number, openMax: number): Promise<{ readonly perSecond: number }>
  /** Waits until every job that was submitted has ended, and throws unless all are completed. */
  settle(): Promise<void>
  /** Reads the evidence of some jobs and checks every signature; gives how many receipts there were. */
  checkReceipts(jobs: number): Promise<number>
}

export interface Paced {
  readonly submitMs: readonly number[]
  readonly getMs: readonly number[]
  /** Jobs that ended with a verdict, a second, between the first second and the last. */
  readonly verifiedPerSecond: number
}

const TICK_MS = 4
const SETTLE_MS = 60_000

export const openNetworkLoad = (api: HttpPool, body: JobRequestInput): NetworkLoad => {
  const text = JSON.stringify(body)
  const recent: string[] = []
  let submitted = 0

  const submit = async (): Promise<void> => {
    const { status, body: answer } = await api.request('POST', '/api/v1/jobs', text)
    if (status !== 201) throw new Error(`submitting: ${status} ${answer}`)
    submitted++
    // The id is the first field; parsing all of it costs what a load generator should not cost.
    const id = /"id":"([^"]+)"/.exec(answer)?.[1]
    if (id !== undefined && recent.push(id) > 2000) recent.splice(0, 1000)
  }
  const get = async (): Promise<void> => {
    const id = recent[Math.floor(Math.random() * recent.length)]
    if (id === undefined) return
    const { status, body: answer } = await api.request('GET', `/api/v1/jobs/${id}`)
    if (status !== 200) throw new Error(`reading ${id}: ${status} ${answer}`)
  }
  const counts = async (): Promise<Partial<Record<JobStatus, number>>> => {
    const { status, body: answer } = await api.request('GET', '/stats')
    if (status !== 200) throw new Error(`stats: ${status} ${answer}`)
    const stats: NetworkStats = JSON.parse(answer)
    return stats.jobs
  }
  const completed = async (): Promise<number> => (await counts()).completed ?? 0

  return {
    paced: async (perSecond, seconds) => {
      const submitMs: number[] = []
      const getMs: number[] = []
      const began = performance.now()
      const endAt = began + seconds * 1000
      const under: Promise<unknown>[] = []
      const from = delay(1000).then(async () => ({ done: await completed(), at: performance.now() }))
      let sent = 0
      const failures: unknown[] = []
      const timed = (dueAt: number, into: number[], work: () => Promise<void>): void => {
        const running = work().then(
          () => into.push(performance.now() - dueAt),
          (error: unknown) => failures.push(error),
        )
        under.push(running)
      }
      while (performance.now() < endAt && failures.length === 0) {
        const due = Math.floor(((performance.now() - began) * perSecond) / 1000)
        for (; sent < due; sent++) {
          const dueAt = began + (sent * 1000) / perSecond
          timed(dueAt, submitMs, submit)
          if (sent % 10 === 0) timed(dueAt, getMs, get)
        }
        if (under.length > 5000) await Promise.all(under.splice(0, 2500))
        await delay(TICK_MS)
      }
      const until = { done: await completed(), at: performance.now() }
      await Promise.all(under)
      if (failures.length > 0) throw failures[0]
      const first = await from
      return { submitMs, getMs, verifiedPerSecond: ((until.done - first.done) * 1000) / (until.at - first.at) }
    },
    flatOut: async (seconds, openMax) => {
      const began = performance.now()
      const endAt = began + seconds * 1000
      let done = await completed()
      const first = { done, at: began }
      const watching = (async () => {
        while (performance.now() < endAt) {
          done = await completed()
          await delay(50)
        }
      })()
      const submitter = async (): Promise<void> => {
        while (performance.now() < endAt) {
          if (submitted - done < openMax) await submit()
          else await delay(5)
        }
      }
      await Promise.all([watching, ...Array.from({ length: 48 }, submitter)])
      done = await completed()
      return { perSecond: ((done - first.done) * 1000) / (performance.now() - first.at) }
    },
    settle: async () => {
      for (const until = performance.now() + SETTLE_MS; ; await delay(100)) {
        const jobs = await counts()
        if (jobs.completed === submitted) return
        if (performance.now() > until)
          throw new Error(`of ${submitted} jobs not all are completed: ${JSON.stringify(jobs)}`)
      }
    },
    checkReceipts: async (jobs) => {
      let checked = 0
      for (const id of recent.slice(-jobs)) {
        const { status, body: answer } = await api.request('GET', `/api/v1/jobs/${id}/receipts`)
        if (status !== 200) throw new Error(`receipts of ${id}: ${status} ${answer}`)
        const { receipts } = jobEvidenceSchema.parse(JSON.parse(answer))
        const verdicts = verifyReceipts(receipts, wasmCurve())
        if (verdicts.length === 0 || verdicts.includes(false)) throw new Error(`a receipt of ${id} is not signed`)
        checked += verdicts.length
      }
      return checked
    },
  }
}
