import {
  BrambleError,
  type Commit,
  type CoordinatorFrame,
  type Failure,
  type LeaseRef,
  type NodeId,
  type NodeReport,
  type WorkerFrame,
} from '@bramble/protocol'
import { checkResult } from '../core/check-result.ts'
import { leaseMessage, pump, refuse, sealedFor, send } from './dispatch.ts'
import { apply } from './job-flow.ts'
import { lateCommit } from './late.ts'
import type { HeldLease } from './leases.ts'
import type { Acknowledgement, OpenSession, WorkerSession } from './network.ts'
import { type NodeRecord, setStatus, takeReport, updateTable } from './node-records.ts'
import type { WriterContext } from './writer-context.ts'

/** What workers say, by stream or by request. */

export const nodeOf = (w: WriterContext, id: NodeId): NodeRecord => {
  const record = w.nodes.get(id)
  if (!record) throw new BrambleError('not_found', { detail: `there is no node \`${id}\`: register it first` })
  return record
}

const activeNode = (w: WriterContext, id: NodeId): NodeRecord => {
  const record = nodeOf(w, id)
  if (record.status === 'suspended')
    throw new BrambleError('node_suspended', { detail: record.message ?? 'it was suspended' })
  return record
}

/** It is there, and takes work unless it said that it does not. */
export const seen = (w: WriterContext, record: NodeRecord): void => {
  record.lastSeenAt = w.now()
  record.heardAt = w.steady()
  if (record.status === 'suspect' || record.status === 'offline') setStatus(w, record, 'online')
}

const setReport = (w: WriterContext, record: NodeRecord, report: NodeReport): void => {
  takeReport(record, report)
  updateTable(w, record)
}

const extend = (w: WriterContext, lease: HeldLease): void => {
  lease.until = w.steady() + w.config.leaseMs
  lease.brokenOff = false
}

/** Of what a worker holds: what it is to go on with. What it holds no more is given to it again, or to another. */
const reconcile = (w: WriterContext, node: NodeId, running: readonly LeaseRef[]): LeaseRef[] => {
  const keep: LeaseRef[] = []
  const held = new Set<string>()
  for (const { execution, token } of running) {
    const lease = w.leases.find({ execution, token })
    if (lease?.node !== node) continue
    extend(w, lease)
    held.add(execution)
    keep.push({ execution, token })
  }
  for (const lease of w.leases.of(node)) {
    if (held.has(lease.execution)) continue
    if (!lease.started) {
      extend(w, lease)
      w.outbox.put(() => send(w, lease))
    } else apply(w, lease.job, { type: 'expired', execution: lease.execution, token: lease.token, as: 'lost' })
  }
  return keep
}

export const openWorkerSession = async (
  w: WriterContext,
  command: OpenSession,
  deliver: (frame: CoordinatorFrame) => void,
): Promise<WorkerSession> => {
  const { node, report, running, subnet } = command
  const record = activeNode(w, node)
  const session = w.sessions.name()
  w.sessions.open(node, session, command.since ?? session, deliver)
  record.subnet = subnet
  takeReport(record, report)
  // A worker that drained and comes again wants work; one that an administrator drained does not get any.
  if (record.status !== 'drained') setStatus(w, record, 'online')
  seen(w, record)
  updateTable(w, record)
  const keep = reconcile(w, node, running)
  pump(w)
  await w.outbox.durable()
  const { heartbeatMs, leaseMs } = w.config
  let open = true
  return {
    welcome: { type: 'welcome', session, heartbeatMs, leaseMs, keep },
    frame: async (frame) => {
      // What one says that was replaced, its node says again, or means nobody any more.
      if (!open || !w.sessions.isOpen(node, session)) return
      await takeFrame(w, node, frame)
    },
    close: (how) => {
      if (!open) return
      open = false
      if (w.sessions.close(node, session)) sessionClosed(w, record, how?.broken === true)
    },
  }
}

const sessionClosed = (w: WriterContext, record: NodeRecord, broken: boolean): void => {
  const until = w.steady() + w.config.reconnectMs
  if (broken)
    for (const lease of w.leases.of(record.id)) {
      lease.brokenOff = true
      lease.until = Math.min(lease.until, until)
    }
  if (record.status === 'draining' && w.leases.countOf(record.id) === 0) setStatus(w, record, 'offline')
  else if (record.status === 'online' || record.status === 'draining') setStatus(w, record, 'suspect')
}

const takeFrame = async (w: WriterContext, node: NodeId, frame: WorkerFrame): Promise<void> => {
  const record = activeNode(w, node)
  seen(w, record)
  switch (frame.type) {
    case 'beat':
      beat(w, node, frame.running)
      return
    case 'started':
      for (const ref of frame.items) started(w, node, ref)
      return
    case 'output':
      output(w, node, frame)
      return
    case 'commit':
    case 'failed': {
      const acknowledged =
        frame.type === 'commit' ? takeCommits(w, node, frame.items) : takeFailures(w, node, frame.items)
      pump(w)
      const items = await Promise.all(acknowledged)
      w.outbox.put(() => w.sessions.send(node, { type: 'ack', items }))
      return w.outbox.durable()
    }
    case 'report':
      setReport(w, record, frame.report)
      pump(w)
      return
    case 'drain':
      if (record.status !== 'drained') setStatus(w, record, 'draining')
      return
    case 'reply':
      w.sessions.reply(node, frame.id, { value: frame.value, ...(frame.error && { error: frame.error }) })
      return
    default:
      frame satisfies never
  }
}

/** Renews what it runs; what it runs and does not hold is to stop. */
const beat = (
  w: WriterContext,
  node: NodeId,
  running: readonly (LeaseRef & { progress?: number | undefined })[],
): void => {
  const renewed: LeaseRef[] = []
  const stop: (LeaseRef & { reason: string })[] = []
  for (const { execution, token, progress } of running) {
    const lease = w.leases.find({ execution, token })
    if (lease?.node === node) {
      extend(w, lease)
      if (progress !== undefined) lease.progress = progress
      renewed.push({ execution, token })
    } else stop.push({ execution, token, reason: 'lease_lost' })
  }
  if (renewed.length > 0) w.sessions.send(node, { type: 'renewed', items: renewed, leaseMs: w.config.leaseMs })
  if (stop.length > 0) w.sessions.send(node, { type: 'cancel', items: stop })
}

const started = (w: WriterContext, node: NodeId, ref: LeaseRef): void => {
  const lease = w.leases.find(ref)
  if (lease?.node !== node || lease.started) return
  lease.started = true
  lease.startedAt = w.steady()
  apply(w, lease.job, { type: 'started', ...ref })
}

/** Shown, and kept for those who come late, only where nobody has to agree with it. */
const output = (w: WriterContext, node: NodeId, frame: Extract<WorkerFrame, { type: 'output' }>): void => {
  const lease = w.leases.find(frame)
  const job = lease?.node === node ? w.jobs.get(lease.job)?.state : undefined
  if (!job || job.request.redundancy > 1 || job.request.policy !== 'quorum') return
  job.lastSeq++
  w.subscriptions.output(job.id, {
    type: frame.stream,
    at: new Date(w.now()).toISOString(),
    seq: job.lastSeq,
    execution: frame.execution,
    data: frame.data,
    ...(frame.encoding && { encoding: frame.encoding }),
  })
}

const refused = ({ execution, token }: LeaseRef, error: BrambleError): Acknowledgement => ({
  execution,
  token,
  error: error.toProblem(),
})

/** The receipts' signatures are verified already; what they are of is verified here. */
export const takeCommits = (
  w: WriterContext,
  node: NodeId,
  commits: readonly Commit[],
): (Acknowledgement | Promise<Acknowledgement>)[] =>
  commits.map((commit) => {
    const lease = w.leases.find(commit)
    if (lease?.node !== node) return lateCommit(w, node, commit)
    return takeCommit(w, lease, commit)
  })

const takeCommit = (w: WriterContext, lease: HeldLease, commit: Commit): Acknowledgement => {
  const { execution, token, receipt, result } = commit
  const spec = w.jobs.get(lease.job)?.state.request.spec
  const checked = checkResult(
    {
      ...{ network: w.config.network, job: lease.job, execution, token, node: lease.node },
      ...{ maxOutputBytes: spec?.resources.maxOutputBytes ?? 0, outputs: spec?.outputs ?? [] },
    },
    receipt.receipt,
    result,
  )
  if (!checked.ok) {
    apply(w, lease.job, {
      type: 'execution_failed',
      ...{ execution, token, code: 'result_refused', message: checked.message, invalid: true },
    })
    return refused(commit, new BrambleError('result_refused', { detail: checked.message }))
  }
  const { inputHash, resultHash } = checked
  apply(w, lease.job, { type: 'committed', execution, token, inputHash, resultHash, receipt, result })
  return { execution, token }
}

export const takeFailures = (w: WriterContext, node: NodeId, failures: readonly Failure[]): Acknowledgement[] =>
  failures.map((failure) => {
    const lease = w.leases.find(failure)
    if (lease?.node !== node)
      return refused(failure, new BrambleError('lease_lost', { detail: 'the execution is not this node’s any more' }))
    const { execution, token, code, message } = failure
    const invalid = code === 'signature_invalid'
    apply(w, lease.job, { type: 'execution_failed', execution, token, code, message, invalid })
    return { execution, token }
  })

/** For workers without a stream. */
export const heartbeat = async (
  w: WriterContext,
  node: NodeId,
  running: readonly LeaseRef[],
  report: NodeReport | undefined,
): Promise<{ keep: LeaseRef[] }> => {
  const record = activeNode(w, node)
  if (report) setReport(w, record, report)
  seen(w, record)
  const keep = running.filter((ref) => {
    const lease = w.leases.find(ref)
    if (lease?.node !== node) return false
    extend(w, lease)
    return true
  })
  pump(w)
  return { keep }
}

export const poll = async (
  w: WriterContext,
  node: NodeId,
  { waitMs, max, signal }: { waitMs: number; max: number; signal?: AbortSignal },
) => {
  seen(w, activeNode(w, node))
  pump(w)
  const fresh = () => [...w.leases.of(node)].filter(({ polled, started }) => !polled && !started).slice(0, max)
  if (fresh().length === 0 && waitMs > 0) {
    await w.outbox.durable()
    if (fresh().length === 0) await w.sessions.wait(node, waitMs, signal)
  }
  const given = fresh()
  // Those that were placed by now; what is placed meanwhile is not durable yet.
  await w.outbox.durable()
  const messages = given.map(async (lease) => {
    const job = w.jobs.get(lease.job)?.state
    if (!job || lease.polled || w.leases.get(lease.execution) !== lease) return []
    lease.polled = true
    const { sealedInputs } = job.request
    const message = leaseMessage(w, job, lease)
    if (!sealedInputs) return [message]
    try {
      return [{ ...message, sealedInputs: await sealedFor(w, node, sealedInputs) }]
    } catch (error) {
      refuse(w, lease, error)
      return []
    }
  })
  return (await Promise.all(messages)).flat()
}

export const renew = async (w: WriterContext, node: NodeId, ref: LeaseRef): Promise<{ leaseMs: number }> => {
  activeNode(w, node)
  const lease = w.leases.find(ref)
  if (lease?.node !== node)
    throw new BrambleError('lease_lost', { detail: 'the execution is not this node’s any more' })
  extend(w, lease)
  started(w, node, ref)
  return { leaseMs: w.config.leaseMs }
}
