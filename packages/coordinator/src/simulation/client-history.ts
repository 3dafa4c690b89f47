import { type Job, type JobEvent, type JobId, jobHasEnded } from '@bramble/protocol'
import type { Checker } from './checker.ts'

/** What tenants were told, compared with what was durable when they were told it. */
export class ClientHistory {
  readonly acknowledged = new Map<JobId, string>()
  readonly #checker: Checker
  readonly #byKey = new Map<string, { readonly job: JobId; readonly body: string }>()
  readonly #bodies = new Map<string, Set<string>>()

  constructor(checker: Checker) {
    this.#checker = checker
  }

  submitting(tenant: string, key: string | undefined, body: string): void {
    if (key === undefined) return
    const name = `${tenant} ${key}`
    this.#bodies.set(name, (this.#bodies.get(name) ?? new Set()).add(body))
  }

  submitted(tenant: string, key: string | undefined, body: string, job: Job, repeated: boolean): void {
    const known = this.#checker.jobs.get(job.id)
    if (!known) {
      this.#checker.fail(`job ${job.id} was acknowledged before it was durable`)
      return
    }
    if (known.tenant !== tenant) this.#checker.fail(`${tenant} was given job ${job.id} of ${known.tenant}`)
    this.acknowledged.set(job.id, tenant)
    this.seen(tenant, job)
    if (key === undefined) return
    const name = `${tenant} ${key}`
    const before = this.#byKey.get(name)
    if (before && before.job !== job.id) this.#checker.fail(`the key ${name} made the jobs ${before.job} and ${job.id}`)
    if (before && before.body !== body) this.#checker.fail(`the key ${name} took two bodies`)
    if (repeated && before === undefined && this.#bodies.get(name)?.has(body) !== true)
      this.#checker.fail(`the key ${name} is said to be used, and was not`)
    this.#byKey.set(name, { job: job.id, body })
  }

  mismatched(tenant: string, key: string): void {
    if ((this.#bodies.get(`${tenant} ${key}`)?.size ?? 0) < 2)
      this.#checker.fail(`the key ${key} of ${tenant} was refused for another body, and had only one`)
  }

  /** Of a job as it is shown. */
  seen(tenant: string, job: Job): void {
    const known = this.#checker.jobs.get(job.id)
    if (!known) {
      this.#checker.fail(`job ${job.id} is shown, and is not durable`)
      return
    }
    if (known.tenant !== tenant) this.#checker.fail(`job ${job.id} of ${known.tenant} is shown to ${tenant}`)
    if (jobHasEnded(job.status) && known.state.status !== job.status && known.state.reopened === 0)
      this.#checker.fail(`job ${job.id} is shown as ${job.status}, and is ${known.state.status} in the store`)
    this.nothingEarly(job.id, job)
  }

  /** Nothing that is shown tells of a result before the verdict. */
  nothingEarly(id: JobId, shown: unknown): void {
    const known = this.#checker.jobs.get(id)
    if (!known || jobHasEnded(known.state.status) || known.state.reopened > 0) return
    const text = JSON.stringify(shown)
    for (const { resultHash } of known.executions.values())
      if (resultHash !== undefined && text.includes(resultHash))
        this.#checker.fail(`the result hash ${resultHash} of job ${id} is shown before the verdict`)
    if (/"content":"(right|wrong|dice)/.test(text))
      this.#checker.fail(`a result of job ${id} is shown before the verdict`)
  }

  event(tenant: string, id: JobId, event: JobEvent, after: number): void {
    if (event.type === 'job') this.seen(tenant, event.job)
    else {
      this.nothingEarly(id, event)
      if (event.seq <= after) this.#checker.fail(`event ${event.seq} of job ${id} was sent after event ${after}`)
    }
    if (event.type === 'stdout' || event.type === 'stderr') {
      const request = this.#checker.jobs.get(id)?.request
      if (request && (request.redundancy > 1 || request.policy !== 'quorum'))
        this.#checker.fail(`output of job ${id} was sent, on which several are to agree`)
    }
  }
}
