import type { JobId, JobResult } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'

/** Characters that jobs in memory take, of their requests and of results that wait for a verdict: by tenant, and in all. */
export interface HeldChars {
  readonly total: number
  of(tenant: string): number
  add(tenant: string, chars: number): void
}

export const openHeldChars = (): HeldChars => {
  const byTenant = new Map<string, number>()
  let total = 0
  return {
    get total() {
      return total
    },
    of: (tenant) => byTenant.get(tenant) ?? 0,
    add: (tenant, chars) => {
      total += chars
      const left = (byTenant.get(tenant) ?? 0) + chars
      if (left > 0) byTenant.set(tenant, left)
      else byTenant.delete(tenant)
    },
  }
}

const resultChars = ({ stdout, stderr, outputs }: JobResult): number => {
  let chars = 0
  for (const content of [stdout, stderr, ...Object.values(outputs)])
    chars += 'content' in content ? content.content.length : 0
  return chars
}

/** Of one job as it is: what `requestChars` says, and the results it holds. */
export const heldChars = (requestChars: number, { executions }: JobState): number => {
  let chars = requestChars
  for (const { result } of executions) if (result) chars += resultChars(result)
  return chars
}

export const requestChars = ({ request }: JobState): number => JSON.stringify(request).length

/** Jobs that ended, the latest last: so many, of so many characters. */
export interface RecentJobs {
  get(id: JobId): JobState | undefined
  has(id: JobId): boolean
  add(state: JobState, chars: number): void
  delete(id: JobId): void
}

export const openRecentJobs = ({ maxJobs, maxChars }: { maxJobs: number; maxChars: number }): RecentJobs => {
  const jobs = new Map<JobId, { readonly state: JobState; readonly chars: number }>()
  let total = 0
  const remove = (id: JobId): void => {
    total -= jobs.get(id)?.chars ?? 0
    jobs.delete(id)
  }
  return {
    get: (id) => jobs.get(id)?.state,
    has: (id) => jobs.has(id),
    add: (state, chars) => {
      remove(state.id)
      jobs.set(state.id, { state, chars })
      total += chars
      for (const oldest of jobs.keys()) {
        if (jobs.size <= maxJobs && total <= maxChars) return
        remove(oldest)
      }
    },
    delete: remove,
  }
}
