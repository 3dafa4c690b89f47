import type { ExecutionId, JobId, LeaseRef, NodeId } from '@bramble/protocol'
import type { Need } from '../placement/placement.ts'

export interface HeldLease extends LeaseRef {
  readonly job: JobId
  readonly node: NodeId
  readonly need: Need
  /** It ends here unless it is renewed. */
  until: number
  /** It ends here in any case. */
  hardUntil: number
  /** Its worker's connection broke off, and it did not come back yet. */
  brokenOff?: boolean
  started: boolean
  startedAt?: number
  /** Of its job: what is expected to take equally long. */
  readonly kind: string
  /** A second copy was asked for. */
  straggled?: boolean
  /** Given to a poll: not given again unless it comes back without it. */
  polled?: boolean
  progress?: number
}

/**
 * The executions that workers hold, in memory: renewals are not written, and a writer that begins gives every lease time
 * anew. A lease is in here from its placement to the end of its execution.
 */
export interface Leases {
  add(lease: HeldLease): void
  /** The lease of that execution, where the token is the one it was given with. */
  find(ref: LeaseRef): HeldLease | undefined
  get(execution: ExecutionId): HeldLease | undefined
  remove(execution: ExecutionId): HeldLease | undefined
  of(node: NodeId): Iterable<HeldLease>
  countOf(node: NodeId): number
  /** Leases whose time is over at `now`. */
  due(now: number): HeldLease[]
  all(): Iterable<HeldLease>
  readonly size: number
}

export const openLeases = (): Leases => {
  const held = new Map<ExecutionId, HeldLease>()
  const byNode = new Map<NodeId, Set<HeldLease>>()
  return {
    add: (lease) => {
      held.set(lease.execution, lease)
      const ofNode = byNode.get(lease.node)
      if (ofNode) ofNode.add(lease)
      else byNode.set(lease.node, new Set([lease]))
    },
    find: ({ execution, token }) => {
      const lease = held.get(execution)
      return lease?.token === token ? lease : undefined
    },
    get: (execution) => held.get(execution),
    remove: (execution) => {
      const lease = held.get(execution)
      if (!lease) return undefined
      held.delete(execution)
      const ofNode = byNode.get(lease.node)
      ofNode?.delete(lease)
      if (ofNode?.size === 0) byNode.delete(lease.node)
      return lease
    },
    of: (node) => [...(byNode.get(node) ?? [])],
    countOf: (node) => byNode.get(node)?.size ?? 0,
    due: (now) => {
      const due: HeldLease[] = []
      for (const lease of held.values()) if (lease.until <= now || lease.hardUntil <= now) due.push(lease)
      return due
    },
    all: () => held.values(),
    get size() {
      return held.size
    },
  }
}
