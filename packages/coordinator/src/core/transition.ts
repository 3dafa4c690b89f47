import { jobHasEnded } from '@bramble/protocol'
import { type Change, endExecution, isOfRound, isOpen, nextSeq, setStatus, stopExecution, tell } from './change.ts'
import type { Transition } from './core.ts'
import { isSame } from './groups.ts'
import type { ExecutionState, JobEventRecord, JobState } from './job-state.ts'
import { askMore, end, settle } from './verdict.ts'
import { askStraggler, isAudited, mayDecideAlone } from './wanted.ts'

type EventOf<T extends JobEventRecord['type']> = Extract<JobEventRecord, { type: T }>

/** The one place where a job changes. See `Transition`; it changes the job that it is given. */
export const transition: Transition = (job, event, context) => {
  if (event.type === 'submitted') {
    const change: Change = { job: job ?? newJob(event, context.now), context, effects: [] }
    if (job === undefined) settle(change, 'first')
    return change
  }
  if (job === undefined) throw new TypeError(`a job begins with \`submitted\`, not with \`${event.type}\``)
  const change: Change = { job, context, effects: [] }
  apply(change, event)
  return change
}

const newJob = (event: EventOf<'submitted'>, now: number): JobState => {
  const { id, tenant, request, auditDraw, relaxed, imageDigest, determinismClass } = event
  return {
    id,
    tenant,
    request,
    ...(imageDigest !== undefined && { imageDigest }),
    ...(request.deadline !== undefined && { deadlineAt: Date.parse(request.deadline) }),
    ...(determinismClass !== undefined && { determinismClass }),
    status: 'pending',
    createdAt: now,
    auditDraw,
    relaxed: [...relaxed],
    lastToken: 0,
    executions: [],
    wanted: [],
    reopened: 0,
    roundToken: 0,
    creditsSpent: 0,
    lastSeq: 0,
  }
}

const apply = (change: Change, event: Exclude<JobEventRecord, { type: 'submitted' }>): void => {
  const { job } = change
  switch (event.type) {
    case 'placed':
      placed(change, event)
      return
    case 'waiting':
      waiting(change, event)
      return
    case 'started':
      started(change, event)
      return
    case 'committed':
      committed(change, event)
      return
    case 'execution_failed':
      failed(change, event)
      return
    case 'expired':
      expired(change, event)
      return
    case 'straggling': {
      const slow = job.executions.find(({ id }) => id === event.execution)
      if (slow === undefined || !isOpen(slow) || jobHasEnded(job.status)) return
      const asked = job.wanted.length
      askStraggler(change, slow)
      if (job.wanted.length > asked) change.effects.push({ type: 'place' })
      return
    }
    case 'cancelled':
      if (!jobHasEnded(job.status)) end(change, 'cancelled', `cancelled by ${event.by}`)
      return
    case 'deadline_passed':
      // One that is asked again gave its answer in time.
      if (!jobHasEnded(job.status) && job.finishedAt === undefined) end(change, 'failed', 'its deadline passed')
      return
    case 'reopened':
      reopened(change, event)
      return
    default:
      event satisfies never
  }
}

const placed = (change: Change, { execution: id, standing }: EventOf<'placed'>): void => {
  const { job, context } = change
  const index = job.wanted.findIndex(({ established }) => !established || standing.established)
  const wanted = job.wanted[index]
  if (wanted === undefined || job.executions.some((execution) => execution.id === id)) return
  job.wanted = job.wanted.toSpliced(index, 1)
  job.lastToken += 1
  const alone = mayDecideAlone(job, standing, wanted.reason, context.config)
  const execution: ExecutionState = {
    id,
    token: job.lastToken,
    reason: wanted.reason,
    standing,
    alone,
    status: 'leased',
    validity: 'undecided',
    placedAt: context.now,
  }
  job.executions.push(execution)
  if (job.wanted.length === 0) delete job.waiting
  tell(change, execution)
  if (job.status === 'pending') setStatus(change, 'scheduled')
  const left = job.wanted.length
  askMore(change, job.request.policy === 'fast' && standing.established ? 'audit' : 'first')
  if (left === 0 && job.wanted.length === 0) change.effects.push({ type: 'place' })
}

const waiting = (change: Change, { waiting: why, withoutAnchor }: EventOf<'waiting'>): void => {
  const { job, context, effects } = change
  if (jobHasEnded(job.status) || job.wanted.length === 0) return
  job.waiting = why
  effects.push({ type: 'waiting', seq: nextSeq(job) })
  // Nobody fits, not even one who is busy: what nobody can give is not asked for.
  if (why.busy === 0 && isAudited(job, context.config)) job.auditWaived = true
  if (withoutAnchor) job.anchorWaived = true
  // Established nodes may have left since they were asked for.
  settle(change, 'first')
}

/** The execution that an event speaks of, while its token is the one that was given out and it has not ended. */
const openExecution = (job: JobState, event: { execution: string; token: number }): ExecutionState | undefined => {
  const execution = job.executions.find(({ id }) => id === event.execution)
  return execution !== undefined && execution.token === event.token && isOpen(execution) ? execution : undefined
}

const started = (change: Change, event: EventOf<'started'>): void => {
  const { job, context } = change
  const execution = openExecution(job, event)
  if (execution?.status !== 'leased') return
  execution.status = 'running'
  execution.startedAt = context.now
  job.startedAt ??= context.now
  tell(change, execution)
  if (job.status === 'scheduled' || job.status === 'pending') setStatus(change, 'running')
}

const committed = (change: Change, event: EventOf<'committed'>): void => {
  const { job } = change
  const execution = openExecution(job, event)
  if (execution === undefined) {
    late(change, event)
    return
  }
  const { inputHash, resultHash, receipt, result } = event
  Object.assign(execution, { inputHash, resultHash, receipt, result })
  job.startedAt ??= change.context.now
  endExecution(change, execution, { status: 'completed', validity: 'undecided' })
  settle(change, 'disagreement')
}

const GAVE_NOTHING: readonly ExecutionState['status'][] = ['timeout', 'lost', 'cancelled']

/** A result whose lease had ended, once: recorded beside what was decided without it. */
const late = ({ job, effects }: Change, event: EventOf<'committed'>): void => {
  const execution = job.executions.find(({ id, token }) => id === event.execution && token === event.token)
  if (execution === undefined || !GAVE_NOTHING.includes(execution.status) || execution.validity === 'late') return
  const { inputHash, resultHash, receipt } = event
  const canonical = job.executions.find(({ id }) => id === job.canonical)
  const { comparator } = job.request
  const agrees =
    canonical && isSame({ ...execution, inputHash, resultHash, result: event.result }, canonical, comparator)
  Object.assign(execution, { inputHash, resultHash, receipt })
  execution.validity = 'late'
  const message = `its result came late${agrees === undefined ? '' : agrees ? ', and agrees' : ', and differs'}`
  execution.message = message
  effects.push({ type: 'reputation', node: execution.standing.node, kind: 'late', execution: execution.id, message })
}

const maxMessageChars = 1024

const failed = (change: Change, event: EventOf<'execution_failed'>): void => {
  const execution = openExecution(change.job, event)
  if (execution === undefined) return
  const message = `${event.code}: ${event.message}`.slice(0, maxMessageChars)
  endExecution(change, execution, { status: 'failed', validity: event.invalid ? 'invalid' : 'inconclusive', message })
  change.effects.push({
    type: 'reputation',
    node: execution.standing.node,
    kind: event.invalid ? 'invalid' : 'failed',
    execution: execution.id,
    message,
  })
  settle(change, 'retry')
}

const expired = (change: Change, event: EventOf<'expired'>): void => {
  const execution = openExecution(change.job, event)
  if (execution === undefined) return
  const message = event.as === 'timeout' ? 'its lease ended' : 'its node was lost'
  stopExecution(change, execution, { status: event.as, validity: 'inconclusive', message })
  const { node } = execution.standing
  if (event.as === 'timeout')
    change.effects.push({ type: 'reputation', node, kind: 'timeout', execution: execution.id, message })
  settle(change, 'retry')
}

const reopened = (change: Change, { node }: EventOf<'reopened'>): void => {
  const { job } = change
  if (job.status === 'completed') {
    const lone = job.executions.find(({ id }) => id === job.canonical)
    if (job.verification?.decidedBy !== 'alone' || lone?.standing.node !== node) return
    job.reopened += 1
    job.roundToken = job.lastToken
    setStatus(change, 'verifying')
    settle(change, 'again')
    return
  }
  if (jobHasEnded(job.status)) return
  const message = 'its node was convicted of a wrong result'
  let changed = false
  for (const execution of job.executions) {
    if (execution.standing.node !== node || !isOfRound(job, execution)) continue
    if (isOpen(execution)) stopExecution(change, execution, { status: 'cancelled', validity: 'inconclusive', message })
    else if (execution.status === 'completed' && execution.validity === 'undecided') execution.validity = 'inconclusive'
    else continue
    changed = true
  }
  if (changed) settle(change, 'again')
}
