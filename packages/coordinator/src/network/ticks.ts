import { holdsUpVerdict } from '../placement/stragglers.ts'
import { pump } from './dispatch.ts'
import { apply, enqueue } from './job-flow.ts'
import { addReputation, setStatus, writeNode } from './node-records.ts'
import type { WriterContext } from './writer-context.ts'

export const TICK_MS = 500
/** Between two looks at the clock: longer ones are no time that passed, but a clock that was set, or a process that stood still. */
export const MAX_STEP_MS = 5000

/** What time alone brings about: leases that end, nodes that are silent, deadlines, executions that hang behind. */
export const tick = (w: WriterContext): void => {
  const now = w.steady()
  for (const lease of w.leases.due(now)) {
    const as = lease.hardUntil <= now ? 'timeout' : 'lost'
    const { execution, token, node, job, brokenOff } = lease
    apply(w, job, { type: 'expired', execution, token, as })
    const record = as === 'lost' && !brokenOff ? w.nodes.get(node) : undefined
    // It said that it is alive, and nothing of what it was given to do.
    if (record && now - (record.heardAt ?? 0) <= 2 * w.config.heartbeatMs)
      addReputation(w, record, {
        kind: 'timeout',
        job,
        execution,
        message: 'it was there, and did not renew its lease',
      })
    w.outbox.put(() => w.sessions.send(node, { type: 'cancel', items: [{ execution, token, reason: as }] }))
  }
  for (const [id, at] of w.retries) {
    if (at > now) continue
    w.retries.delete(id)
    const job = w.jobs.get(id)?.state
    if (job && job.wanted.length > 0) enqueue(w, job)
  }
  waiveAnchors(w, now)
  copyStragglers(w, now)
  silentNodes(w, now)
  const wall = w.now()
  for (const [id, deadlineAt] of w.deadlines) if (deadlineAt <= wall) apply(w, id, { type: 'deadline_passed' })
  pump(w)
}

const waiveAnchors = (w: WriterContext, now: number): void => {
  for (const [id, since] of w.anchorWaits) {
    const job = w.jobs.get(id)?.state
    const waiting = job?.wanted[0]?.established ? job.waiting : undefined
    if (waiting && now - since < w.config.anchorWaitMs) continue
    w.anchorWaits.delete(id)
    if (waiting) apply(w, id, { type: 'waiting', waiting, withoutAnchor: true })
  }
}

const copyStragglers = (w: WriterContext, now: number): void => {
  for (const lease of w.leases.all()) {
    if (lease.startedAt === undefined || lease.straggled) continue
    const lateAfterMs = w.stragglers.lateAfterMs(lease.kind)
    if (lateAfterMs === undefined || now - lease.startedAt < lateAfterMs) continue
    const job = w.jobs.get(lease.job)?.state
    const execution = job?.executions.find(({ id }) => id === lease.execution)
    if (!job || !execution || !holdsUpVerdict(job, execution) || !w.stragglers.takeCopy()) continue
    lease.straggled = true
    apply(w, lease.job, { type: 'straggling', execution: lease.execution })
  }
}

const silentNodes = (w: WriterContext, now: number): void => {
  for (const record of w.nodes.values()) {
    const { id, status, heardAt = now } = record
    const quietMs = now - heardAt
    if (status === 'online' && quietMs > 4 * w.config.heartbeatMs) setStatus(w, record, 'suspect')
    if ((status !== 'suspect' && status !== 'draining') || quietMs < w.config.silentMs) continue
    for (const { execution, token, job } of w.leases.of(id))
      apply(w, job, { type: 'expired', execution, token, as: 'lost' })
    addReputation(w, record, status === 'draining' ? { kind: 'left' } : { kind: 'silent' })
    setStatus(w, record, 'offline')
  }
}

/** Documents and open jobs that changed, in slices, and then the word that the log before is not needed. */
export const openCheckpoints = (w: WriterContext): { due(): boolean; run(): Promise<void> } => {
  let last = { seq: w.journal.seq, at: w.steady() }
  /** Documents hold everything up to it: nothing, until the first checkpoint wrote what was replayed. */
  let writtenSeq = -1
  let running = false
  return {
    due: () =>
      !running &&
      w.journal.seq > last.seq &&
      (w.journal.seq - last.seq >= w.config.checkpointRecords || w.steady() - last.at >= w.config.checkpointMs),
    run: async () => {
      running = true
      try {
        const { seq } = w.journal
        for (const record of w.nodes.values()) if (record.logSeq > writtenSeq) writeNode(w, record)
        w.journal.add({ documents: w.accounts.changed().map(({ id, value }) => ({ kind: 'account', id, value })) })
        let sliced = 0
        for (const open of [...w.jobs.values()]) {
          if (!open.dirty || w.jobs.get(open.state.id) !== open) continue
          open.dirty = false
          w.journal.add({
            jobs: [{ state: open.state, ...(open.idempotency && { idempotency: open.idempotency }) }],
          })
          if (++sliced % SLICE_JOBS === 0) await w.outbox.durable()
        }
        w.journal.checkpoint(seq)
        await w.outbox.durable()
        writtenSeq = seq
        last = { seq, at: w.steady() }
      } finally {
        running = false
      }
    },
  }
}

const SLICE_JOBS = 500
