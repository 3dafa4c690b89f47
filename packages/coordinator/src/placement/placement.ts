import type { Isolation, JobId, NodeId, NodeReport, NodeStatus, Waiting } from '@bramble/protocol'
import type { Standing } from '../core/job-state.ts'

/**
 * Which node runs what. All of it is in memory, and belongs to the one coordinator that writes; it decides and does no I/O.
 *
 * A decision costs the same however many nodes there are: the hard constraints that many nodes share (region, GPU model,
 * isolation, image, labels, established) are indexed as sets; candidates are drawn at random from the smallest set, until enough of them
 * fit, and the best by score is taken. Only where the draw finds none are all nodes of that set looked at, which also
 * says why none fits.
 *
 * Score: how well the need fills the node, the lower bound of its trust, speed, locality of the image, load; less for a node
 * that failed this job already. One decision in twenty takes any of the candidates, so that nodes that are new come to be known.
 */
export interface NodeTable {
  /** Adds it, or takes its new report. */
  set(node: PlacedNode): void
  remove(id: NodeId): void
  get(id: NodeId): PlacedNode | undefined
  readonly size: number
  /** Room is taken and given back by what runs: never below zero, never above what the node has. */
  reserve(id: NodeId, need: Need): void
  release(id: NodeId, need: Need): void
  free(id: NodeId): { slots: number; cpus: number; memoryMb: number; gpus: number } | undefined
  /** Whether some established node that is online is not among `except`. */
  hasEstablished(except: ReadonlySet<NodeId>): boolean
  choose(request: ChooseRequest): Choice
  /** What that name stands for, as online nodes say: established ones before others, each owner once. */
  digestOf(imageName: string): string | undefined
}

export interface PlacedNode {
  readonly id: NodeId
  readonly owner: string
  readonly subnet: string
  readonly report: NodeReport
  /** Only `online` ones are given work. */
  readonly status: NodeStatus
  readonly established: boolean
  readonly agreements: number
  /** 0 to 1. */
  readonly trust: number
  /** 1 is average. */
  readonly speed: number
  /** At most so many at once: fewer for a node that has shown nothing yet. */
  readonly maxRunning: number
}

/** What an execution takes of a node, or an instance, which takes no slot. */
export interface Need {
  /** Default 1. */
  readonly slots?: number
  readonly cpus: number
  readonly memoryMb: number
  readonly gpus: number
}

export interface ChooseRequest {
  readonly job: JobId
  readonly need: Need
  readonly isolation?: Isolation
  readonly image: { readonly name: string; readonly digest?: string }
  readonly regions?: readonly string[]
  readonly gpuModel?: string
  readonly nodeLabels?: Readonly<Record<string, string>>
  readonly established: boolean
  /** Of the job's executions that count or may: no other of their nodes, nor what `distinct` says of them. */
  readonly others: readonly Standing[]
  readonly distinct: readonly ('owner' | 'machine' | 'subnet')[]
  /** Nodes that failed this job: taken only where there is no other. */
  readonly failed: readonly NodeId[]
}

/**
 * `never`: no node that is here now will ever do, however idle. `full`: none has room for it, whatever the job's other
 * executions exclude, so that no job of that need can be placed; pass it on to `block`.
 */
export type Choice =
  | { readonly node: PlacedNode; readonly standing: Standing }
  | { readonly waiting: Omit<Waiting, 'since'>; readonly never: boolean; readonly full: boolean }

/**
 * Jobs with executions that wait for a node, in the order in which they are to be served: tenants by turns (start-time fair queueing,
 * by what their jobs need), within a tenant by priority, then by age. Age counts too: a point of priority is worth ten seconds of
 * it, so that nothing waits for ever behind what is more urgent. Those whose *shape* (`shapeOf`: everything `choose` looks at)
 * found no node are asked again only when something changed that could help them, so that many that wait cost nothing.
 */
export interface WaitingQueue {
  /** A job that is in the queue already takes the new values. */
  add(job: JobId, tenant: string, priority: number, shape: string, cost: number): void
  remove(job: JobId): void
  /**
   * The next to try, or undefined when all that are left are blocked. It is charged to its tenant, and stays in the queue until
   * it is removed, added with another shape, or blocked: a job that wants two executions is tried twice.
   */
  next(): JobId | undefined
  /** It found no node: its shape is blocked until `unblock`, and with `full` all shapes of the same need. Not charged. */
  block(job: JobId, full?: boolean): void
  /** Room came free, a node came or changed: of which kind says the node; `free` says what of it is free, where that is known. */
  unblock(node: PlacedNode, free?: ReturnType<NodeTable['free']>): void
  readonly size: number
}
