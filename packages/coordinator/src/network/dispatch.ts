import { BrambleError, type JobId, type Lease, type NodeId, newId, type Waiting } from '@bramble/protocol'
import type { Effect, JobState } from '../core/job-state.ts'
import { kindOf } from '../placement/stragglers.ts'
import { chooseRequestOf } from './choose-request.ts'
import { apply, enqueue } from './job-flow.ts'
import type { HeldLease } from './leases.ts'
import type { WriterContext } from './writer-context.ts'

/** Gives waiting executions to nodes, until nothing that waits can be placed. */
export const pump = (w: WriterContext): void => {
  for (let id = w.queue.next(); id !== undefined; id = w.queue.next()) place(w, id)
}

const place = (w: WriterContext, id: JobId): void => {
  const job = w.jobs.get(id)?.state
  if (!job || job.wanted.length === 0) {
    w.queue.remove(id)
    return
  }
  const request = chooseRequestOf(w, job)
  const choice = w.table.choose(request)
  if (!('node' in choice)) {
    w.queue.block(id, choice.full)
    if (request.established && !w.anchorWaits.has(id)) w.anchorWaits.set(id, w.steady())
    wait(w, job, choice.waiting)
    return
  }
  w.queue.remove(id)
  const { standing } = choice
  const { need } = request
  const execution = newId('execution', { now: w.now, ...(w.random && { random: w.random }) })
  w.table.reserve(standing.node, need)
  const placed = apply(w, id, { type: 'placed', execution, standing })
  const token = placed.executions.find((each) => each.id === execution)?.token
  if (token === undefined) {
    w.table.release(standing.node, need)
    return
  }
  w.counts.placedExecutions++
  w.stragglers.placed()
  const now = w.steady()
  const lease: HeldLease = {
    ...{ execution, token, job: id, node: standing.node, need, started: false, kind: kindOf(job) },
    until: now + w.config.leaseMs,
    hardUntil: now + job.request.spec.resources.timeoutMs + w.config.timeoutMarginMs,
  }
  w.leases.add(lease)
  w.outbox.put(() => send(w, lease))
  if (placed.wanted.length > 0) enqueue(w, placed)
}

/**
 * Why it waits, for whoever looks. It is an event like others, since a job may ask for something else when it has to wait; that
 * other nodes are busy than before is none.
 */
const wait = (w: WriterContext, job: JobState, waiting: Omit<Waiting, 'since'>): void => {
  if (job.waiting && reasonsOf(job.waiting) === reasonsOf(waiting)) return
  const since = job.waiting?.since ?? new Date(w.now()).toISOString()
  apply(w, job.id, { type: 'waiting', waiting: { ...waiting, since } })
}

const reasonsOf = ({ stopped, busy }: Omit<Waiting, 'since'>): string => JSON.stringify([stopped, busy > 0])

/** The lease on its way to its node: by the stream, or for its next poll. */
export const send = (w: WriterContext, lease: HeldLease): void => {
  if (w.leases.get(lease.execution) !== lease) return
  const job = w.jobs.get(lease.job)?.state
  if (!job) return
  if (!w.sessions.has(lease.node)) {
    w.sessions.wakePolls(lease.node)
    return
  }
  const { sealedInputs } = job.request
  const message = leaseMessage(w, job, lease)
  if (!sealedInputs) {
    w.sessions.lease(lease.node, message)
    return
  }
  void sealedFor(w, lease.node, sealedInputs).then(
    (resealed) => w.sessions.lease(lease.node, { ...message, sealedInputs: resealed }),
    (error: unknown) => refuse(w, lease, error),
  )
}

export const leaseMessage = (w: WriterContext, job: JobState, lease: HeldLease): Lease => ({
  execution: lease.execution,
  token: lease.token,
  job: job.id,
  spec: job.imageDigest === undefined ? job.request.spec : { ...job.request.spec, image: job.imageDigest },
  leaseMs: w.config.leaseMs,
})

/** Opened with the network's key, and sealed to the node's: only nodes that a job was placed on can read its secrets. */
export const sealedFor = async (w: WriterContext, node: NodeId, sealed: NonNullable<Lease['sealedInputs']>) => {
  const record = w.nodes.get(node)
  if (!record) throw new BrambleError('not_found', { detail: `there is no node \`${node}\`` })
  return w.reseal(sealed, record.publicKey)
}

/** What was sealed cannot be opened: no node will ever run it. */
export const refuse = (w: WriterContext, lease: HeldLease, error: unknown): void => {
  const detail = error instanceof BrambleError ? error.detail : 'it cannot be opened'
  apply(w, lease.job, {
    type: 'execution_failed',
    execution: lease.execution,
    token: lease.token,
    code: 'sealed_inputs',
    message: `the sealed inputs: ${detail}`,
    invalid: false,
  })
}

export const cancelLease = (
  w: WriterContext,
  { execution, token, node, reason }: Extract<Effect, { type: 'stop' }>,
): void => w.sessions.send(node, { type: 'cancel', items: [{ execution, token, reason }] })
