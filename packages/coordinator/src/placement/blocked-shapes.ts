import type { PlacedNode } from './placement.ts'
import { excludes, type splitShape, suits } from './shape.ts'

/** Nodes that came free and are remembered, of each base: who waits longer than for so many is tried again unasked. */
const REMEMBERED = 64

type Read = ReturnType<typeof splitShape>['read']

/**
 * What is asked of any node by jobs that wait, and what came free since it found none. `serial` counts what came free; jobs of it
 * that were blocked at a serial may be tried again once something came after it that their own executions do not exclude.
 */
export class Base<Group> {
  readonly key: string
  readonly groups = new Set<Group>()
  readonly #shape: Read['base']
  readonly #freed: PlacedNode[] = []
  serial = 0
  /** Some job of it found no node: until then nothing needs to be remembered. */
  isBlocked = false
  /** No node had room for it, at this serial. */
  #fullAt = -1

  constructor(key: string, shape: Read['base']) {
    this.key = key
    this.#shape = shape
  }

  fill(): void {
    this.#fullAt = this.serial
    this.#freed.length = 0
  }

  /** Nothing came free since no node had room. */
  get isFull(): boolean {
    return this.#fullAt === this.serial
  }

  /** Whether the node was one that could help. */
  freed(node: PlacedNode, free: Parameters<typeof suits>[2]): boolean {
    if (!this.isBlocked || !suits(this.#shape, node, free)) return false
    this.serial++
    this.#freed.push(node)
    if (this.#freed.length > REMEMBERED) this.#freed.shift()
    return true
  }

  /** Whether something may have changed for a job with these exclusions since it was blocked (-1: it was not). */
  mayServe(apart: Read['apart'], blockedAt: number): boolean {
    const since = Math.max(blockedAt, this.#fullAt)
    if (since < 0) return true
    const fresh = this.serial - since
    if (fresh > this.#freed.length) return true
    for (let back = 1; back <= fresh; back++) {
      const node = this.#freed[this.#freed.length - back]
      if (node !== undefined && !excludes(apart, node)) return true
    }
    return false
  }
}
