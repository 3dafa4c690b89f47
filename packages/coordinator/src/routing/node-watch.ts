import { BrambleError, type NodeId } from '@bramble/protocol'
import type { NodeTable } from '../placement/placement.ts'
import type { RoutingLimits } from './limits.ts'
import { type Rendezvous, rendezvous } from './rendezvous.ts'

/**
 * The nodes as users and instances see them: those that are here, with a gateway that can be reached, weighted by what they have.
 * A node that is silent is still here until `failoverMs` are over.
 */
export interface NodeWatch {
  /** Users are held by it; instances use its order. */
  readonly homes: Rendezvous
  /** New users and instances may go there. */
  takesMore(id: NodeId): boolean
  /** It is not to be waited for: offline, suspended, drained, silent for too long, or not known. */
  isGone(id: NodeId): boolean
  /** It is gone, or about to be: its instances are to go elsewhere. */
  isLeaving(id: NodeId): boolean
  /** Throws `no_node` where its gateway has no address. */
  urlOf(id: NodeId): string
  /** After whatever may have changed. */
  look(): void
  /** The same of one node. */
  lookAt(id: NodeId): void
}

export interface NodeWatchOptions {
  readonly table: Pick<NodeTable, 'get'>
  nodes(): Iterable<{ readonly id: NodeId }>
  now(): number
  /** It takes users, from now on. */
  onHome(id: NodeId): void
  readonly limits: RoutingLimits
}

const MB_FOR_ONE_CPU = 2048

/** What a node weighs: its processors, or its memory in units of 2 GiB where it has less of that. */
export const weightOf = ({ cpus, memoryMb }: { readonly cpus: number; readonly memoryMb: number }): number =>
  Math.max(0.01, Math.min(cpus, memoryMb / MB_FOR_ONE_CPU))

export const watchNodes = ({ table, nodes, now, onHome, limits }: NodeWatchOptions): NodeWatch => {
  const homes = rendezvous({ loadFactor: limits.loadFactor })
  const weights = new Map<NodeId, number>()
  /** Until when a node that is silent is waited for. */
  const waits = new Map<NodeId, number>()
  let graceMs = limits.restartGraceMs

  const takesMore = (id: NodeId): boolean => {
    const node = table.get(id)
    return node?.status === 'online' && node.report.url !== undefined
  }
  const isGone = (id: NodeId): boolean => {
    const node = table.get(id)
    if (!node || node.report.url === undefined) return true
    switch (node.status) {
      case 'online':
      case 'draining':
        return false
      case 'suspect':
        return now() >= (waits.get(id) ?? Number.POSITIVE_INFINITY)
      case 'offline':
        // Right after a restart nobody is online: whoever comes back in time was never away.
        return now() >= (waits.get(id) ?? 0)
      case 'drained':
      case 'suspended':
        return true
      default:
        return node.status satisfies never
    }
  }
  const lookAt = (id: NodeId): void => {
    const node = table.get(id)
    const weight = node?.status === 'online' && node.report.url !== undefined ? weightOf(node.report) : undefined
    if (weight !== weights.get(id)) {
      if (weight === undefined) {
        weights.delete(id)
        homes.remove(id)
      } else {
        const isNew = !weights.has(id)
        weights.set(id, weight)
        homes.set(id, weight)
        if (isNew) onHome(id)
      }
    }
    if (node?.status === 'suspect' || (node?.status === 'offline' && graceMs > limits.failoverMs)) {
      if (!waits.has(id)) waits.set(id, now() + graceMs)
    } else if (node?.status !== 'offline') waits.delete(id)
  }
  const look = (): void => {
    for (const { id } of nodes()) lookAt(id)
    graceMs = limits.failoverMs
  }
  return {
    homes,
    takesMore,
    isGone,
    isLeaving: (id) => isGone(id) || table.get(id)?.status === 'draining',
    urlOf: (id) => {
      const url = table.get(id)?.report.url
      if (url === undefined) throw new BrambleError('no_node', { detail: `the gateway of ${id} has no address` })
      return url
    },
    look,
    lookAt,
  }
}
