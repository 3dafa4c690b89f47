/** What is in a heap knows its place there: -1 while it is in none. It is in at most one. */
export interface Heaped {
  heapAt: number
}

/** A binary heap whose items can be taken out, and moved when their order changed, in O(log n). */
export class Heap<T extends Heaped> {
  readonly #items: T[] = []
  readonly #before: (a: T, b: T) => boolean

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  get size(): number {
    return this.#items.length
  }

  get top(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    item.heapAt = this.#items.length
    this.#items.push(item)
    this.#up(item)
  }

  /** Harmless for an item that is not in it. */
  delete(item: T): void {
    const at = item.heapAt
    if (at < 0) return
    item.heapAt = -1
    const last = this.#items.pop()
    if (last === undefined || last === item) return
    this.#put(last, at)
    this.moved(last)
  }

  /** Its order may have changed. Harmless for an item that is not in it. */
  moved(item: T): void {
    if (item.heapAt < 0) return
    this.#up(item)
    this.#down(item)
  }

  #put(item: T, at: number): void {
    this.#items[at] = item
    item.heapAt = at
  }

  #up(item: T): void {
    while (item.heapAt > 0) {
      const at = item.heapAt
      const parent = this.#items[(at - 1) >> 1]
      if (parent === undefined || !this.#before(item, parent)) return
      this.#put(item, parent.heapAt)
      this.#put(parent, at)
    }
  }

  #down(item: T): void {
    for (;;) {
      const at = item.heapAt
      const left = this.#items[2 * at + 1]
      const right = this.#items[2 * at + 2]
      const child = left !== undefined && right !== undefined && this.#before(right, left) ? right : left
      if (child === undefined || !this.#before(child, item)) return
      this.#put(item, child.heapAt)
      this.#put(child, at)
    }
  }
}
