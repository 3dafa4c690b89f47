import { BrambleError, type JobEvent, type JobId, jobHasEnded, type NodeId } from '@bramble/protocol'
import type { Effect, JobEventRecord, JobState } from '../core/job-state.ts'
import { executionView } from '../core/views.ts'
import { shapeOf } from '../placement/shape.ts'
import { kindOf } from '../placement/stragglers.ts'
import type { StoredJob } from '../store/store.ts'
import { chooseRequestOf } from './choose-request.ts'
import { cancelLease } from './dispatch.ts'
import { heldChars, requestChars } from './held-chars.ts'
import { addReputation, setStatus } from './node-records.ts'
import { CONVICTED, takeBack } from './reopen.ts'
import { noteClass } from './spec-class.ts'
import { stateEvent } from './subscriptions.ts'
import type { OpenJob, WriterContext } from './writer-context.ts'

/** A record of the log: one event of one job, with what its transition was told. */
export interface JobRecord {
  readonly t: 'j'
  readonly j: JobId
  readonly e: JobEventRecord
  readonly n: number
  readonly a: boolean
}

export interface ApplyOptions {
  readonly idempotency?: { readonly key: string; readonly digest: string }
}

/**
 * One event of one job: the transition, what is noted of it for the disk, and what follows. Everything in memory changes at
 * once, in the order of the log; what others see of it goes through the outbox.
 */
export const apply = (
  w: WriterContext,
  id: JobId,
  event: JobEventRecord,
  { idempotency }: ApplyOptions = {},
): JobState => {
  const open = w.jobs.get(id)
  const now = w.now()
  const context = { now, config: w.config.verification, anchors: hasAnchors(w, open?.state) }
  const { job, effects } = w.transition(open?.state, event, context)
  const ended = jobHasEnded(job.status)
  // The job is written whole with its first event and its last: the log has those in between.
  const whole = open === undefined || ended || event.type === 'reopened'
  if (whole) job.logSeq = w.journal.seq
  else {
    const record: JobRecord = { t: 'j', j: id, e: event, n: now, a: context.anchors }
    job.logSeq = w.journal.log(record)
  }
  const entry = open ?? addOpen(w, job, idempotency)
  entry.state = job
  if (event.type === 'committed' || event.type === 'reopened') countHeld(w, entry)
  entry.dirty = !whole
  let provisional: StoredJob['provisional']
  for (const effect of effects) {
    if (effect.type === 'provisional') provisional = { node: effect.node, until: effect.until }
    carryOut(w, job, effect)
  }
  if (ended) {
    noteClass(w, job)
    close(w, entry)
  }
  if (whole)
    w.journal.add({
      jobs: [
        {
          state: job,
          ...(entry.idempotency && { idempotency: entry.idempotency }),
          ...(provisional && { provisional }),
        },
      ],
    })
  return job
}

const hasAnchors = (w: WriterContext, job: JobState | undefined): boolean =>
  w.table.hasEstablished(new Set(job?.executions.map(({ standing }) => standing.node)))

/** Into what is held in memory: a job that is new, or one of the store that is to go on. */
export const addOpen = (w: WriterContext, state: JobState, idempotency: ApplyOptions['idempotency']): OpenJob => {
  const chars = requestChars(state)
  const open: OpenJob = { state, dirty: false, requestChars: chars, chars: 0, ...(idempotency && { idempotency }) }
  countHeld(w, open)
  w.jobs.set(state.id, open)
  if (state.deadlineAt !== undefined && state.finishedAt === undefined) w.deadlines.set(state.id, state.deadlineAt)
  w.recent.delete(state.id)
  w.byTenant.set(state.tenant, (w.byTenant.get(state.tenant) ?? 0) + 1)
  return open
}

/** What the job takes in memory now. */
export const countHeld = (w: WriterContext, open: OpenJob): void => {
  const chars = heldChars(open.requestChars, open.state)
  w.held.add(open.state.tenant, chars - open.chars)
  open.chars = chars
}

const close = (w: WriterContext, open: OpenJob): void => {
  const { state } = open
  w.held.add(state.tenant, -open.chars)
  w.jobs.delete(state.id)
  w.deadlines.delete(state.id)
  w.retries.delete(state.id)
  w.queue.remove(state.id)
  const left = (w.byTenant.get(state.tenant) ?? 1) - 1
  if (left > 0) w.byTenant.set(state.tenant, left)
  else w.byTenant.delete(state.tenant)
  w.recent.add(state, heldChars(open.requestChars, state))
}

const carryOut = (w: WriterContext, job: JobState, effect: Effect): void => {
  switch (effect.type) {
    case 'place':
      if (job.wanted.length === 0) w.queue.remove(job.id)
      else if (!putOff(w, job)) enqueue(w, job)
      return
    case 'stop':
      w.outbox.put(() => cancelLease(w, effect))
      return
    case 'free': {
      const lease = w.leases.remove(effect.execution)
      if (!lease) return
      w.table.release(lease.node, lease.need)
      const node = w.table.get(lease.node)
      if (node) w.queue.unblock(node, w.table.free(lease.node))
      return
    }
    case 'reputation': {
      const record = w.nodes.get(effect.node)
      if (!record) return
      const { type: _type, node: _node, ...entry } = effect
      if (effect.ms !== undefined) w.stragglers.ended(kindOf(job), effect.ms)
      if (effect.kind === 'convicted' && !mayConvict(w, job.tenant)) return
      addReputation(w, record, { ...entry, job: job.id })
      if (effect.kind === 'convicted') convict(w, effect.node, effect.message ?? `its result of ${job.id} was wrong`)
      return
    }
    case 'pay':
      w.accounts.pay(job.id, effect.execution, effect.owner, effect.credits)
      return
    case 'release':
      w.accounts.release(job.reopened > 0 ? 'issuer' : `tenant:${job.tenant}`, job.id)
      return
    case 'provisional':
      return
    case 'status':
      if (jobHasEnded(job.status)) {
        w.counts.endedJobs++
        if (job.verification) {
          w.counts.verified++
          verdictsOf(w, job.tenant).verified++
        }
      }
      tell(w, job, () => {
        const { status, message } = job
        return [{ type: 'status', ...stamp(w, effect), status, ...(message !== undefined && { message }) }]
      })
      if (jobHasEnded(job.status)) {
        const last = w.subscriptions.any(job.id) ? stateEvent(job) : undefined
        w.outbox.put(() => {
          if (last) w.subscriptions.publish(job.id, last)
          w.subscriptions.end(job.id)
        })
      }
      return
    case 'execution':
      tell(w, job, () => {
        const execution = job.executions.find(({ id }) => id === effect.execution)
        if (!execution) return []
        const { id, node, status, reason, message } = executionView(job, execution)
        return [
          {
            type: 'execution',
            ...stamp(w, effect),
            execution: id,
            node,
            status,
            reason,
            ...(message !== undefined && { message }),
          },
        ]
      })
      return
    case 'waiting':
      tell(w, job, () => (job.waiting ? [{ type: 'waiting', ...stamp(w, effect), waiting: job.waiting }] : []))
      return
    case 'corrected':
      tell(w, job, () => [{ type: 'corrected', ...stamp(w, effect), resultHash: effect.resultHash }])
      return
    default:
      effect satisfies never
  }
}

const stamp = (w: WriterContext, { seq }: { seq: number }) => ({ at: new Date(w.now()).toISOString(), seq })

/** Made now, for the state may change until it is let out; not at all where nobody listens. */
const tell = (w: WriterContext, job: JobState, make: () => JobEvent[]): void => {
  if (!w.subscriptions.any(job.id)) return
  const events = make()
  w.outbox.put(() => {
    for (const event of events) w.subscriptions.publish(job.id, event)
  })
}

/** What failed more than once is tried again after a pause that doubles: what passes by itself is not used up at once. */
const putOff = (w: WriterContext, job: JobState): boolean => {
  const failures = job.executions.filter(({ status }) => status === 'failed').length
  if (failures < 2 || job.wanted[0]?.reason !== 'retry') return false
  const { firstRetryMs, maxRetryMs } = w.config
  w.queue.remove(job.id)
  w.retries.set(job.id, w.steady() + Math.min(firstRetryMs * 2 ** (failures - 2), maxRetryMs))
  return true
}

export const enqueue = (w: WriterContext, job: JobState): void => {
  const request = chooseRequestOf(w, job)
  const { cpus, memoryMb } = request.need
  w.queue.add(job.id, job.tenant, job.request.priority, shapeOf(request), Math.max(cpus, memoryMb / 2048))
}

/**
 * Whoever submits jobs whose results differ by nature could have honest nodes convicted: a tenant's jobs convict no more than
 * a few nodes, and a share of what was verified for it.
 */
const mayConvict = (w: WriterContext, tenant: string): boolean => {
  const verdicts = verdictsOf(w, tenant)
  const { tenantConvictions, tenantConvictionShare } = w.config
  if (verdicts.convictions >= tenantConvictions + tenantConvictionShare * verdicts.verified) return false
  verdicts.convictions++
  return true
}

const MAX_TENANTS = 100_000

const verdictsOf = (w: WriterContext, tenant: string): { verified: number; convictions: number } => {
  const known = w.verdicts.get(tenant) ?? { verified: 0, convictions: 0 }
  if (!w.verdicts.has(tenant) && w.verdicts.size < MAX_TENANTS) w.verdicts.set(tenant, known)
  return known
}

/** A liar: it gets no work, what it runs is placed elsewhere, and what it said alone is asked again. */
const convict = (w: WriterContext, id: NodeId, message: string): void => {
  const record = w.nodes.get(id)
  if (!record) return
  setStatus(w, record, 'suspended', message)
  w.onConvicted(record)
  w.journal.add({ documents: [{ kind: CONVICTED, id, value: {} }] })
  w.outbox.put(() => {
    w.sessions.send(id, {
      type: 'bye',
      error: new BrambleError('node_suspended', { detail: message }).toProblem(),
    })
    takeBack(w, id)
  })
}
