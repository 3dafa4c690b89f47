import type { Room } from './needs.ts'
import { milliCpusOf } from './needs.ts'
import type { Need, PlacedNode } from './placement.ts'

/** Shares of what is weighed; they sum to one. */
const WEIGHTS = { fit: 0.35, trust: 0.3, speed: 0.15, locality: 0.1, idle: 0.1 } as const

export interface Candidate {
  readonly node: PlacedNode
  readonly capacity: Room
  readonly free: Room
}

/**
 * How well a node would serve a need, 0 to 1. `fit` is best fit as Nomad computes it (`20 - 10^freeCpu - 10^freeMemory`,
 * of 18): it fills nodes that are in use already, and leaves whole ones for what needs a whole one.
 */
export const scoreOf = (need: Need, { node, capacity, free }: Candidate, hasImage: boolean): number => {
  const freeCpu = (free.milliCpus - milliCpusOf(need.cpus)) / capacity.milliCpus
  const freeMemory = (free.memoryMb - need.memoryMb) / capacity.memoryMb
  const fit = Math.max(0, Math.min(1, (20 - 10 ** freeCpu - 10 ** freeMemory) / 18))
  const speed = node.speed / (1 + node.speed)
  const idle = (free.slots - 1) / capacity.slots
  return (
    WEIGHTS.fit * fit +
    WEIGHTS.trust * node.trust +
    WEIGHTS.speed * speed +
    WEIGHTS.locality * (hasImage ? 1 : 0) +
    WEIGHTS.idle * idle
  )
}
