import { type HeldInstance, heldInstancesSchema, type InstanceId, type NodeId } from '@bramble/protocol'
import { ask, type InstanceContext, letGo } from './instance-context.ts'
import { type InstanceRecord, snapshotsOf } from './instance-records.ts'
import { snapshotInstance } from './move-instance.ts'

/**
 * Asks a node what it holds, sets right what differs from what the network knows, and keeps the files of each of its instances.
 *
 * A copy that is not the network's (it moved on, it was deleted, its making was given up) is let go. What its tenant deleted on
 * the node is forgotten. What a node ought to hold and does not is given to `onMissing`. Rejects where the node cannot be asked.
 */
export const tendNode = async (
  c: InstanceContext,
  node: NodeId,
  { snapshots, onMissing }: { readonly snapshots: boolean; readonly onMissing: (record: InstanceRecord) => void },
): Promise<void> => {
  const { items } = await listHeld(c, node, onMissing)
  if (!snapshots) return
  for (const { id, epoch, status } of items) {
    const record = c.records.get(id)
    if (!record || status === 'gone' || c.turns.has(id)) continue
    await c.turns.take(id, async () => {
      if (c.closing.aborted || c.records.get(id) !== record || record.node !== node || record.epoch !== epoch) return
      // What cannot be kept now is kept next time.
      await snapshotInstance(c, record).catch(() => {})
    })
  }
}

const listHeld = async (c: InstanceContext, node: NodeId, onMissing: (record: InstanceRecord) => void) => {
  // What begins while the answer is on its way is not judged by it.
  const expected = [...c.records.ofNode(node)].filter(({ id }) => !c.turns.has(id))
  const list = await ask(c, node, {
    method: 'instances.list',
    params: { keep: ownOf(c, node), fenceMs: Math.max(0, c.limits.failoverMs - c.limits.fenceMarginMs) },
    timeoutMs: c.limits.listTimeoutMs,
    answer: heldInstancesSchema,
  })
  const there = new Map(list.items.map((held) => [held.id, held]))
  for (const held of list.items) await judge(c, node, held)
  for (const record of expected) {
    if (c.turns.has(record.id) || record.node !== node || c.records.get(record.id) !== record) continue
    const held = there.get(record.id)
    if (held && held.epoch >= record.epoch) continue
    // Nobody was told of one that never began.
    if (record.state === 'starting') c.records.remove(record)
    else onMissing(record)
  }
  return list
}

/** What is the node's, or is being made there; not what is being made elsewhere. */
const ownOf = ({ records }: InstanceContext, node: NodeId): { id: InstanceId; epoch: number }[] => [
  ...[...records.ofNode(node)].filter(({ move }) => move === undefined).map(({ id, epoch }) => ({ id, epoch })),
  ...[...records.movingTo(node)].map(({ id, move }) => ({ id, epoch: move?.epoch ?? 0 })),
]

const judge = async (c: InstanceContext, node: NodeId, { id, epoch, status }: HeldInstance): Promise<void> => {
  // It is being made, moved or deleted: whoever does that says what becomes of it.
  if (c.turns.has(id)) return
  const record = c.records.get(id)
  if (record?.move?.node === node && record.move.epoch === epoch && status !== 'gone') {
    // Made by a coordinator that did not live to write it down.
    const { node: from, epoch: oldEpoch } = record
    c.records.change(record, { ...record.move, move: undefined, message: undefined })
    await c.durable()
    void letGo(c, from, { id, epoch: oldEpoch })
  } else if (record?.node === node && record.epoch === epoch) {
    if (status === 'gone') {
      c.records.remove(record)
      await c.durable()
      await letGo(c, node, { id, epoch, forget: snapshotsOf(record) })
    } else if (record.state === 'starting') c.records.change(record, { state: 'live' })
  } else await letGo(c, node, { id, epoch })
}
