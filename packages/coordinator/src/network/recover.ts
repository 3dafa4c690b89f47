import { type JobId, jobHasEnded, type NodeId, nodeIdSchema, type ReputationEntry } from '@bramble/protocol'
import { kindOf } from '../placement/stragglers.ts'
import type { LedgerEntry, Loaded } from '../store/store.ts'
import type { StoredAccount } from './accounts.ts'
import { needOf } from './choose-request.ts'
import { addOpen, countHeld, enqueue, type JobRecord } from './job-flow.ts'
import { foldEntry, type NodeRecord, updateTable } from './node-records.ts'
import { type Registry, storedInviteSchema } from './registration.ts'
import { CONVICTED, takeBack } from './reopen.ts'
import { loadClass } from './spec-class.ts'
import type { WriterContext } from './writer-context.ts'

type LogRecord = JobRecord | ({ readonly t: 'r' } & ReputationEntry) | ({ readonly t: 'l' } & LedgerEntry)

/**
 * Makes the state in memory from what the store has. Events of jobs go through the same transition again, without their
 * effects: what followed from them is in records of its own. Then leases get time for their workers to come back, room is
 * taken for them, and what waits, waits again.
 */
export const recover = async (w: WriterContext, registry: Registry, loaded: Loaded): Promise<void> => {
  const convicted: NodeId[] = []
  for (const { kind, id, value } of loaded.documents) {
    if (kind === CONVICTED) convicted.push(nodeIdSchema.parse(id))
    else if (kind === 'node') loadNode(w, value as NodeRecord)
    else if (kind === 'account') w.accounts.load(id, value as StoredAccount)
    else if (kind === 'invite') registry.invites.set(id, storedInviteSchema.parse(value))
    else if (kind === 'owner') registry.owners.set(id, value as never)
    else loadClass(w, kind, id, value)
  }
  for (const state of loaded.jobs) if (!jobHasEnded(state.status)) addOpen(w, state, undefined)
  for await (const { seq, record } of loaded.log) replay(w, seq, record as LogRecord)
  for (const { state } of [...w.jobs.values()]) {
    if (jobHasEnded(state.status)) w.jobs.delete(state.id)
    else resumeJob(w, state.id)
  }
  for (const record of w.nodes.values()) updateTable(w, record)
  for (const node of convicted) w.outbox.put(() => takeBack(w, node))
}

/** Nobody is there yet: sessions say who is. */
const loadNode = (w: WriterContext, record: NodeRecord): void => {
  nodeIdSchema.parse(record.id)
  const status = record.status === 'online' || record.status === 'draining' ? 'suspect' : record.status
  const node: NodeRecord = { ...record, status, lastSeenAt: w.now(), heardAt: w.steady() }
  w.nodes.set(node.id, node)
  updateTable(w, node)
}

const replay = (w: WriterContext, seq: number, record: LogRecord): void => {
  switch (record.t) {
    case 'j': {
      const open = w.jobs.get(record.j)
      if (!open || (open.state.logSeq ?? 0) >= seq) return
      const context = { now: record.n, config: w.config.verification, anchors: record.a }
      open.state = w.transition(open.state, record.e, context).job
      open.state.logSeq = seq
      open.dirty = true
      return
    }
    case 'r': {
      const node = w.nodes.get(record.node)
      if (node) foldEntry(w, node, { ...record, seq })
      return
    }
    case 'l':
      w.accounts.replay({ ...record, seq })
      return
    default:
      record satisfies never
  }
}

const resumeJob = (w: WriterContext, id: JobId): void => {
  const open = w.jobs.get(id)
  if (!open) return
  countHeld(w, open)
  const job = open.state
  const { creditsRequired, redundancy } = job.request
  // Nothing of it is paid before the verdict, and each time that it is asked it holds as much anew.
  w.accounts.loadHold(id, creditsRequired * redundancy)
  const now = w.steady()
  const need = needOf(job)
  for (const { id: execution, token, standing, status } of job.executions) {
    if (status !== 'leased' && status !== 'running') continue
    w.leases.add({
      ...{ execution, token, job: id, node: standing.node, need, started: status === 'running', kind: kindOf(job) },
      until: now + w.config.leaseMs + w.config.restartGraceMs,
      hardUntil: now + job.request.spec.resources.timeoutMs + w.config.timeoutMarginMs + w.config.restartGraceMs,
    })
    if (w.table.get(standing.node)) w.table.reserve(standing.node, need)
  }
  if (job.wanted.length > 0) enqueue(w, job)
}
