import { type Job, type JobsQuery, jobHasEnded } from '@bramble/protocol'
import type { JobState } from '../core/job-state.ts'
import { jobView } from '../core/views.ts'
import type { Page } from './network.ts'
import type { WriterContext } from './writer-context.ts'

/** Newest first. The store has every job; of those that are open, memory knows how they are. */
export const listJobs = async (w: WriterContext, query: JobsQuery, tenant: string): Promise<Page<Job>> => {
  const { limit, cursor, status, label } = query
  await w.outbox.durable()
  const rows =
    status !== undefined && !jobHasEnded(status)
      ? openJobs(w, query, tenant)
      : await w.store.jobs({
          ...{ tenant, limit: limit + 1 },
          ...(cursor !== undefined && { cursor }),
          ...(status && { status }),
          ...(label !== undefined && { label }),
        })
  const page = rows.slice(0, limit).map((row) => w.jobs.get(row.id)?.state ?? w.recent.get(row.id) ?? row)
  const last = rows.length > limit ? page.at(-1) : undefined
  const items = page.map(jobView)
  // Memory may be ahead of the store.
  await w.outbox.durable()
  return { items, nextCursor: last?.id ?? null }
}

const openJobs = (w: WriterContext, { limit, cursor, status, label }: JobsQuery, tenant: string): JobState[] => {
  const fitting: JobState[] = []
  for (const { state } of w.jobs.values())
    if (
      state.tenant === tenant &&
      state.status === status &&
      (cursor === undefined || state.id < cursor) &&
      (label === undefined || hasLabel(state, label))
    )
      fitting.push(state)
  return fitting.sort((left, right) => (left.id > right.id ? -1 : 1)).slice(0, limit + 1)
}

const hasLabel = ({ request }: JobState, label: string): boolean => {
  const labels = request.spec.labels ?? {}
  const split = label.indexOf('=')
  if (split < 0) return Object.hasOwn(labels, label)
  const name = label.slice(0, split)
  return Object.hasOwn(labels, name) && labels[name] === label.slice(split + 1)
}
