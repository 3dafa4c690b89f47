import {
  BrambleError,
  instanceSchema,
  type NodeId,
  snapshotPlacedAnswerSchema,
  toBrambleError,
} from '@bramble/protocol'
import { ask, type InstanceContext, isFinal, letGo, nodeFor, noNodeFor } from './instance-context.ts'
import type { InstanceRecord } from './instance-records.ts'

/** Keeps its files in the shared tier, and notes the snapshot. True: they are there. */
export const snapshotInstance = async (
  c: InstanceContext,
  record: InstanceRecord,
  { fence = false }: { readonly fence?: boolean } = {},
): Promise<boolean> => {
  const { id, node, epoch, snapshot: before, olderSnapshot } = record
  const answer = await ask(c, node, {
    method: 'instances.snapshot',
    params: { id, epoch, fence, forget: olderSnapshot === undefined ? [] : [olderSnapshot] },
    timeoutMs: c.limits.snapshotTimeoutMs,
    answer: snapshotPlacedAnswerSchema,
  })
  const { snapshot, shared } = answer
  if (snapshot === undefined || !shared) {
    const message = shared
      ? undefined
      : 'its node has no store that other nodes can read: it cannot come back elsewhere'
    if (record.message !== message) c.records.change(record, { message })
    return false
  }
  const isOther = snapshot !== before
  c.records.change(record, {
    snapshot,
    snapshotAt: c.now(),
    olderSnapshot: isOther ? before : undefined,
    message: undefined,
  })
  return true
}

/** Whether it has to go elsewhere now. */
export const mustMove = ({ records, watch }: InstanceContext, record: InstanceRecord): boolean =>
  records.get(record.id) === record && record.state === 'live' && watch.isLeaving(record.node)

/**
 * Makes an instance again on another node, from its last snapshot, or from its spec where there is none. In its turn.
 *
 * Where its node is leaving and can still be asked, clients are kept away there first and its files are kept once more, so that
 * nothing is lost. Else what was written after the last snapshot is. Rejects where no node takes it: it stays where it was.
 */
export const moveInstance = async (c: InstanceContext, record: InstanceRecord): Promise<void> => {
  const { id, tenant, spec, node: from, epoch: oldEpoch } = record
  const canBeAsked = c.table.get(from)?.status === 'draining' || c.table.get(from)?.status === 'drained'
  const isFenced = canBeAsked && (await snapshotInstance(c, record, { fence: true }).then(always, never))
  const tried = new Set<NodeId>(c.watch.isLeaving(from) ? [from] : [])
  let failure: unknown
  for (let tries = 0; tries < c.limits.maxTries; tries++) {
    const node = nodeFor(c, record, tried)
    if (node === undefined) break
    tried.add(node)
    const move = { node, epoch: c.epochs.next() }
    c.records.change(record, { move })
    await c.durable()
    const { snapshot } = record
    try {
      await ask(c, node, {
        method: snapshot === undefined ? 'instances.start' : 'instances.restore',
        params: { id, epoch: move.epoch, tenant, spec, ...(snapshot !== undefined && { snapshot }) },
        timeoutMs: c.limits.startTimeoutMs,
        answer: instanceSchema,
      })
      c.records.change(record, { ...move, move: undefined, message: undefined })
      await c.durable()
      void letGo(c, from, { id, epoch: oldEpoch })
      return
    } catch (error) {
      failure = error
      void letGo(c, node, { id, epoch: move.epoch })
      if (isFinal(error)) break
    }
  }
  const error = noNodeFor(spec, failure)
  c.records.change(record, { move: undefined, message: error.message })
  if (isFenced) await snapshotInstance(c, record).catch(never)
  throw error
}

const always = (): boolean => true
const never = (): boolean => false

/** When what failed is tried again: twice as long after each failure. */
export interface Retries {
  isDue(record: InstanceRecord): boolean
  failed(record: InstanceRecord): void
  forget(record: InstanceRecord): void
}

export const openRetries = ({ now, limits }: Pick<InstanceContext, 'now' | 'limits'>): Retries => {
  const waits = new WeakMap<InstanceRecord, { at: number; ms: number }>()
  return {
    isDue: (record) => now() >= (waits.get(record)?.at ?? 0),
    failed: (record) => {
      const ms = Math.min(limits.maxRetryMs, (waits.get(record)?.ms ?? limits.minRetryMs / 2) * 2)
      waits.set(record, { at: now() + ms, ms })
    },
    forget: (record) => waits.delete(record),
  }
}

/** Why a route cannot be given now. */
export const notThere = (record: InstanceRecord, cause?: unknown): BrambleError =>
  new BrambleError('no_node', {
    detail: `the node of ${record.id} is gone, and it is not back yet: ${record.message ?? toBrambleError(cause).detail}`,
    retryAfterMs: 1000,
  })
