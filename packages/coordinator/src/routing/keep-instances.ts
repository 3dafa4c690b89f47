import { BrambleError, type NodeId } from '@bramble/protocol'
import { type InstanceContext, letGo } from './instance-context.ts'
import { type InstanceRecord, snapshotsOf } from './instance-records.ts'
import { moveInstance, mustMove, notThere, openRetries } from './move-instance.ts'
import { tendNode } from './tend-node.ts'

/** Looks after the instances of a network: where they are, that they come back, that their files are kept. */
export interface InstanceKeeper {
  /** Begins what is due. */
  tick(): void
  /** The node is asked at the next turn what it holds. */
  nodeBack(id: NodeId): void
  /** Resolves when the instance is on a node that is there; rejects with `no_node` after `routeWaitMs`. */
  back(record: InstanceRecord): Promise<void>
  /** Tells its node to remove it, and what was kept of it. */
  letGo(record: InstanceRecord): Promise<void>
  settled(): Promise<void>
}

export const keepInstances = (c: InstanceContext): InstanceKeeper => {
  const { records, watch, limits, turns, now } = c
  const retries = openRetries(c)
  /** When each node is asked next. Also those that may hold what is not theirs. */
  const dueAt = new Map<NodeId, number>()
  /** Its files are kept at most so often, however often it comes back. */
  const keptAt = new Map<NodeId, number>()
  const tending = new Map<NodeId, Promise<void>>()
  let moving = 0

  const move = (record: InstanceRecord, isMissing = false): Promise<void> => {
    moving++
    return turns
      .take(record.id, async () => {
        // Its node may have come back while it waited for its turn.
        if (!isMissing && !mustMove(c, record)) return
        if (records.get(record.id) !== record || c.closing.aborted) return
        await moveInstance(c, record)
        retries.forget(record)
      })
      .catch((error: unknown) => {
        retries.failed(record)
        // It stays where it was, which is to know that.
        dueAt.set(record.node, now())
        throw error
      })
      .finally(() => {
        moving--
      })
  }
  const moveLater = (record: InstanceRecord): void => {
    if (retries.isDue(record)) move(record, true).catch(() => {})
  }

  const tend = async (node: NodeId): Promise<void> => {
    const snapshots = now() - (keptAt.get(node) ?? 0) >= limits.snapshotEveryMs
    if (snapshots) keptAt.set(node, now())
    await tendNode(c, node, { snapshots, onMissing: moveLater })
  }
  const beginTending = (node: NodeId): void => {
    const work = tend(node)
      .catch(() => {})
      .finally(() => {
        tending.delete(node)
        if (records.ofNode(node).size === 0) {
          dueAt.delete(node)
          keptAt.delete(node)
        } else dueAt.set(node, now() + limits.snapshotEveryMs)
      })
    tending.set(node, work)
  }

  return {
    tick: () => {
      for (const node of records.nodes()) {
        if (!watch.isLeaving(node)) {
          if (!dueAt.has(node)) dueAt.set(node, now() + limits.snapshotEveryMs)
          continue
        }
        for (const record of records.ofNode(node)) {
          if (moving >= limits.maxMoves) break
          if (turns.has(record.id)) continue
          // Nobody was told of it, and whoever was to be told is gone too.
          if (record.state === 'starting') records.remove(record)
          else if (retries.isDue(record)) move(record).catch(() => {})
        }
      }
      for (const [node, at] of dueAt) {
        if (tending.size >= limits.maxTended) break
        if (at > now() || tending.has(node)) continue
        if (c.table.get(node)?.status === 'online') beginTending(node)
      }
    },
    nodeBack: (id) => {
      if (c.table.get(id)?.report.url !== undefined) dueAt.set(id, now())
    },
    back: async (record) => {
      const { promise: late, resolve } = Promise.withResolvers<'late'>()
      const cancel = c.schedule(limits.routeWaitMs, () => resolve('late'))
      const over = turns.has(record.id) || !retries.isDue(record) ? turns.take(record.id, async () => {}) : move(record)
      try {
        if ((await Promise.race([over, late])) === 'late') throw notThere(record)
      } catch (error) {
        throw error instanceof BrambleError && error.code === 'no_node' ? error : notThere(record, error)
      } finally {
        cancel()
        over.catch(() => {})
      }
    },
    letGo: async (record) => {
      const { id, node, epoch, move } = record
      if (move) await letGo(c, move.node, { id, epoch: move.epoch })
      await letGo(c, node, { id, epoch, forget: snapshotsOf(record) })
    },
    settled: async () => {
      await Promise.all(tending.values())
    },
  }
}
