import { imageNames } from './image-names.ts'
import { IndexSet, type Member } from './index-set.ts'
import type { Room, Shape } from './needs.ts'
import { capacityOf, imageIsLocal } from './needs.ts'
import type { PlacedNode } from './placement.ts'

/** A node as the table keeps it. */
export interface Entry {
  node: PlacedNode
  capacity: Room
  readonly used: Room
  /** `capacity` less `used`, and never below zero. */
  readonly free: Room
  readonly places: { readonly key: string; readonly member: Member<Entry> }[]
  open: Member<Entry> | undefined
  /** The last decision that looked at it. */
  seen: number
}

/** Candidates of a decision: the members of one set, or of several that have none in common. */
export class Pool {
  readonly constraint: string
  readonly #sets: readonly IndexSet<Entry>[]
  readonly size: number

  constructor(constraint: string, sets: readonly IndexSet<Entry>[]) {
    this.constraint = constraint
    this.#sets = sets
    this.size = sets.reduce((sum, set) => sum + set.size, 0)
  }

  at(index: number): Entry | undefined {
    let rest = index
    for (const set of this.#sets) {
      if (rest < set.size) return set.at(rest)
      rest -= set.size
    }
    return undefined
  }
}

const keysOf = ({ established, report }: PlacedNode): Set<string> => {
  const keys = new Set(report.isolation.map((name) => `isolation:${name}`))
  if (established) keys.add('established')
  if (report.region !== undefined) keys.add(`region:${report.region}`)
  for (const { model } of report.gpus) keys.add(`gpu:${model}`)
  for (const [name, value] of Object.entries(report.labels)) keys.add(`label:${name}=${value}`)
  for (const { name, digest } of report.images) {
    keys.add(`digest:${digest}`)
    if (name !== undefined) keys.add(`image:${name}`)
  }
  return keys
}

/**
 * Sets of the nodes that are online, by what many have in common; and of those of them that have room. The latter changes with each
 * reservation, the others only with what a node is.
 */
export const nodeIndex = () => {
  const sets = new Map<string, IndexSet<Entry>>()
  const online = new IndexSet<Entry>()
  const open = new IndexSet<Entry>()
  const none = new IndexSet<Entry>()
  const names = imageNames()
  const setOf = (key: string): IndexSet<Entry> => sets.get(key) ?? none

  const index = {
    online,
    open,

    add(entry: Entry): void {
      entry.capacity = capacityOf(entry.node)
      if (entry.node.status !== 'online') return
      entry.places.push({ key: '', member: online.add(entry) })
      for (const key of keysOf(entry.node)) {
        let set = sets.get(key)
        if (set === undefined) {
          set = new IndexSet()
          sets.set(key, set)
        }
        entry.places.push({ key, member: set.add(entry) })
      }
      names.count(entry.node, 1)
    },

    delete(entry: Entry): void {
      if (entry.open !== undefined) open.delete(entry.open)
      entry.open = undefined
      if (entry.places.length === 0) return
      for (const { key, member } of entry.places) {
        if (key === '') {
          online.delete(member)
          continue
        }
        const set = setOf(key)
        set.delete(member)
        if (set.size === 0) sets.delete(key)
      }
      entry.places.length = 0
      names.count(entry.node, -1)
    },

    /** After what it has or what it uses changed. */
    settle(entry: Entry): void {
      const { capacity, used, free } = entry
      free.slots = Math.max(0, capacity.slots - used.slots)
      free.milliCpus = Math.max(0, capacity.milliCpus - used.milliCpus)
      free.memoryMb = Math.max(0, capacity.memoryMb - used.memoryMb)
      free.gpus = Math.max(0, capacity.gpus - used.gpus)
      const isOpen = entry.places.length > 0 && free.slots > 0
      if (isOpen && entry.open === undefined) entry.open = open.add(entry)
      if (!isOpen && entry.open !== undefined) {
        open.delete(entry.open)
        entry.open = undefined
      }
    },

    established: (): IndexSet<Entry> => setOf('established'),

    /** The smallest of the sets that all nodes which would do are in. */
    smallest({ established, isolation, regions, gpuModel, nodeLabels, image }: Shape): Pool {
      let best = new Pool('offline', [online])
      const consider = (constraint: string, ...keys: string[]): void => {
        const pool = new Pool(constraint, keys.map(setOf))
        if (pool.size < best.size) best = pool
      }
      if (established) consider('established', 'established')
      if (isolation !== undefined) consider('isolation', `isolation:${isolation}`)
      if (regions !== undefined) consider('region', ...[...new Set(regions)].map((region) => `region:${region}`))
      if (gpuModel !== undefined) consider('gpu', `gpu:${gpuModel}`)
      for (const [name, value] of Object.entries(nodeLabels ?? {})) consider('labels', `label:${name}=${value}`)
      if (imageIsLocal(image)) {
        if (image.digest !== undefined) consider('image', `digest:${image.digest}`)
        else if (image.name.startsWith('sha256:')) consider('image', `digest:${image.name}`)
        else consider('image', `image:${image.name}`)
      }
      return best
    },

    digestOf: (imageName: string): string | undefined => names.digestOf(imageName),
  }
  return index
}
export type NodeIndex = ReturnType<typeof nodeIndex>
