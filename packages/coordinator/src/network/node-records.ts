import type { Labels, NetworkNode, NodeId, NodeReport, NodeStatus, ReputationEntry } from '@bramble/protocol'
import type { PlacedNode } from '../placement/placement.ts'
import { foldTrust, type TrustState, trustView } from '../reputation/trust.ts'
import type { WriterContext } from './writer-context.ts'

/** A node as the network remembers it. */
export interface NodeRecord {
  readonly id: NodeId
  readonly publicKey: string
  readonly owner: string
  readonly name?: string
  /** Run by whoever runs the network: established from the start. */
  readonly anchor: boolean
  readonly registeredAt: number
  /** Of its invite: they stand over what it says of itself. */
  readonly labels: Labels
  report: NodeReport
  subnet: string
  status: NodeStatus
  message?: string
  trust?: TrustState
  lastSeenAt?: number
  /** The same by the writer's steady clock: nothing to anyone else. */
  heardAt?: number
  /** The record of the log that `trust` holds everything up to. */
  logSeq: number
}

/** Its report, with the labels that it was invited with. */
export const takeReport = (record: NodeRecord, report: NodeReport): void => {
  record.report = { ...report, labels: { ...report.labels, ...record.labels } }
}

export const isEstablished = (w: WriterContext, { anchor, trust, status }: NodeRecord): boolean =>
  status !== 'suspended' && (anchor || (trust?.agreements ?? 0) >= w.config.verification.establishedAgreements)

/** How placement sees it. */
const placedNode = (w: WriterContext, record: NodeRecord): PlacedNode => {
  const trust = trustView(record.trust, w.config.verification)
  const { slots } = record.report
  const proven = record.anchor || trust.agreements >= w.config.newcomerAgreements
  return {
    id: record.id,
    owner: record.owner,
    subnet: record.subnet,
    report: record.report,
    status: record.status,
    established: isEstablished(w, record),
    agreements: record.anchor
      ? Math.max(trust.agreements, w.config.verification.establishedAgreements)
      : trust.agreements,
    trust: trust.correctness,
    speed: trust.speed,
    maxRunning: proven ? slots : Math.min(slots, w.config.newcomerRunning),
  }
}

/** Tells placement, and whoever waits for a node like this one. */
export const updateTable = (w: WriterContext, record: NodeRecord): void => {
  const placed = placedNode(w, record)
  w.table.set(placed)
  if (record.status === 'online') w.queue.unblock(placed, w.table.free(record.id))
}

/** What a writer that begins has to know; whether a node is there, it sees. One that left did not fall silent. */
const KEPT: readonly NodeStatus[] = ['suspended', 'drained', 'offline']

export const setStatus = (w: WriterContext, record: NodeRecord, status: NodeStatus, message?: string): void => {
  if (record.status === status && record.message === message) return
  const kept = KEPT.includes(status) || KEPT.includes(record.status)
  record.status = status
  if (message !== undefined) record.message = message
  updateTable(w, record)
  if (kept || message !== undefined) writeNode(w, record)
}

export const writeNode = (w: WriterContext, record: NodeRecord): void =>
  w.journal.add({ documents: [{ kind: 'node', id: record.id, value: { ...record, logSeq: w.journal.seq } }] })

type Entry = Omit<ReputationEntry, 'seq' | 'node' | 'at'>

/** Adds to a node's record, and folds it into its trust. */
export const addReputation = (w: WriterContext, record: NodeRecord, entry: Entry): void => {
  const noted: ReputationEntry = {
    ...entry,
    seq: w.journal.seq + 1,
    node: record.id,
    at: new Date(w.now()).toISOString(),
  }
  w.journal.log({ t: 'r', ...noted })
  w.journal.add({ reputation: [noted] })
  foldEntry(w, record, noted)
}

export const foldEntry = (w: WriterContext, record: NodeRecord, entry: ReputationEntry): void => {
  if (entry.seq <= record.logSeq) return
  const before = w.table.get(record.id)
  record.trust = foldTrust(record.trust, entry, w.config.verification)
  record.logSeq = entry.seq
  if (entry.message !== undefined) record.message = entry.message
  if (entry.kind === 'convicted') record.status = 'suspended'
  const after = placedNode(w, record)
  // Small moves of trust change no decision: what placement knows is refreshed when something does.
  if (
    before?.established !== after.established ||
    before.maxRunning !== after.maxRunning ||
    before.status !== after.status ||
    Math.abs(before.trust - after.trust) > 0.02
  )
    updateTable(w, record)
}

export const nodeView = (w: WriterContext, record: NodeRecord): NetworkNode => {
  const { machine: _machine, ...report } = record.report
  const free = w.table.free(record.id)
  return {
    id: record.id,
    ...(record.name !== undefined && { name: record.name }),
    owner: record.owner,
    status: record.status,
    ...(record.message !== undefined && { message: record.message }),
    report,
    trust: { ...trustView(record.trust, w.config.verification), established: isEstablished(w, record) },
    running: w.leases.countOf(record.id),
    free: { slots: free?.slots ?? 0, cpus: free?.cpus ?? 0, memoryMb: free?.memoryMb ?? 0 },
    registeredAt: new Date(record.registeredAt).toISOString(),
    ...(record.lastSeenAt !== undefined && { lastSeenAt: new Date(record.lastSeenAt).toISOString() }),
  }
}
