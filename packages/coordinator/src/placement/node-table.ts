import type { NodeId, NodeStatus } from '@bramble/protocol'
import { type ExplainOptions, explain } from './explain.ts'
import { fits, hasImage, lacks, milliCpusOf, sharedWith } from './needs.ts'
import { type Entry, nodeIndex, Pool } from './node-index.ts'
import type { Choice, ChooseRequest, Need, NodeTable, PlacedNode } from './placement.ts'
import { scoreOf } from './score.ts'

export interface NodeTableOptions {
  /** In [0, 1). */
  readonly random: () => number
}

/** Candidates that are weighed against each other, and nodes looked at to find them. */
const CANDIDATES = 16
const PROBES = 128
/** Share of decisions that take any candidate: so who is new, or was slow once, is heard of again. */
const EXPLORING = 0.05

export interface CountingNodeTable extends NodeTable {
  /** Nodes looked at by all decisions so far. */
  readonly probes: number
}

const noRoom = () => ({ slots: 0, milliCpus: 0, memoryMb: 0, gpus: 0 })

/** All indexes that a node is in follow from these. */
const isIndexedAlike = (a: PlacedNode, b: PlacedNode): boolean =>
  a.report === b.report && a.status === b.status && a.established === b.established && a.maxRunning === b.maxRunning

export const nodeTable = ({ random }: NodeTableOptions): CountingNodeTable => {
  const entries = new Map<NodeId, Entry>()
  const index = nodeIndex()
  const byStatus = new Map<NodeStatus, number>()
  const explaining: ExplainOptions = { index, byStatus, random }
  let probes = 0
  let decisions = 0

  const countStatus = (status: NodeStatus, by: number): void => {
    byStatus.set(status, (byStatus.get(status) ?? 0) + by)
  }

  const use = (id: NodeId, need: Need, by: 1 | -1): void => {
    const entry = entries.get(id)
    if (entry === undefined) return
    const { used } = entry
    used.slots = Math.max(0, used.slots + by * (need.slots ?? 1))
    used.milliCpus = Math.max(0, used.milliCpus + by * milliCpusOf(need.cpus))
    used.memoryMb = Math.max(0, used.memoryMb + by * need.memoryMb)
    used.gpus = Math.max(0, used.gpus + by * need.gpus)
    index.settle(entry)
  }

  /** Looks at nodes until enough are found that would do, and gives the best of them. */
  const search = (request: ChooseRequest): { best: Entry | undefined; full: boolean } => {
    const few = index.smallest(request)
    const pool = index.open.size < few.size ? new Pool('busy', [index.open]) : few
    const failed = new Set(request.failed)
    const decision = ++decisions
    let best: Entry | undefined
    let bestScore = Number.NEGATIVE_INFINITY
    let found = 0
    /** The best of those that failed the job before. */
    let last: Entry | undefined
    let lastScore = Number.NEGATIVE_INFINITY
    let full = true
    const explores = random() < EXPLORING

    const look = (entry: Entry | undefined): void => {
      probes++
      if (entry === undefined || entry.seen === decision) return
      entry.seen = decision
      if (!fits(request.need, entry.free) || lacks(request, entry.node, entry.capacity) !== undefined) return
      full = false
      if (sharedWith(request, entry.node) !== undefined) return
      const score = explores ? random() : scoreOf(request.need, entry, hasImage(entry.node, request.image))
      if (failed.has(entry.node.id)) {
        if (score <= lastScore) return
        last = entry
        lastScore = score
        return
      }
      found++
      if (score <= bestScore) return
      best = entry
      bestScore = score
    }

    if (pool.size > 2 * CANDIDATES)
      for (let drawn = 0; drawn < PROBES && found < CANDIDATES; drawn++) look(pool.at(Math.floor(random() * pool.size)))
    if (found === 0) {
      const start = Math.floor(random() * pool.size)
      const enough = pool.size > 2 * CANDIDATES ? CANDIDATES : pool.size
      for (let looked = 0; looked < pool.size && found < enough; looked++) look(pool.at((start + looked) % pool.size))
    }
    return { best: best ?? last, full }
  }

  return {
    set(node) {
      const known = entries.get(node.id)
      if (known === undefined) {
        const entry: Entry = {
          node,
          capacity: noRoom(),
          used: noRoom(),
          free: noRoom(),
          places: [],
          open: undefined,
          seen: 0,
        }
        entries.set(node.id, entry)
        countStatus(node.status, 1)
        index.add(entry)
        index.settle(entry)
        return
      }
      const before = known.node
      if (isIndexedAlike(before, node)) {
        known.node = node
        return
      }
      index.delete(known)
      countStatus(before.status, -1)
      countStatus(node.status, 1)
      known.node = node
      index.add(known)
      index.settle(known)
    },

    remove(id) {
      const entry = entries.get(id)
      if (entry === undefined) return
      index.delete(entry)
      countStatus(entry.node.status, -1)
      entries.delete(id)
    },

    get: (id) => entries.get(id)?.node,
    get size() {
      return entries.size
    },
    get probes() {
      return probes
    },

    reserve: (id, need) => use(id, need, 1),
    release: (id, need) => use(id, need, -1),

    free(id) {
      const entry = entries.get(id)
      if (entry === undefined) return undefined
      const { slots, milliCpus, memoryMb, gpus } = entry.free
      return { slots, cpus: milliCpus / 1000, memoryMb, gpus }
    },

    hasEstablished(except) {
      const established = index.established()
      for (let at = 0; at < established.size; at++) {
        const entry = established.at(at)
        if (entry !== undefined && !except.has(entry.node.id)) return true
      }
      return false
    },

    choose(request): Choice {
      const { best, full } = search(request)
      if (best === undefined) {
        const { waiting, never, looked } = explain(explaining, request, request)
        probes += looked
        return { waiting, never, full }
      }
      const { node } = best
      const { region, machine } = node.report
      return {
        node,
        standing: {
          node: node.id,
          owner: node.owner,
          machine,
          subnet: node.subnet,
          ...(region !== undefined && { region }),
          established: node.established,
          agreements: node.agreements,
        },
      }
    },

    digestOf: (imageName) => index.digestOf(imageName),
  }
}
