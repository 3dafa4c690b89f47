import type { BytePath } from '@bramble/runtime'

/** Paths, of which the least comes out first. */
export interface PathHeap {
  push(path: BytePath): void
  readonly least: BytePath | undefined
  pop(): void
}

export const pathHeap = (): PathHeap => {
  const paths: BytePath[] = []
  const at = (index: number): BytePath => paths[index] ?? ''
  const swap = (left: number, right: number): void => {
    const path = at(left)
    paths[left] = at(right)
    paths[right] = path
  }
  const sink = (): void => {
    for (let parent = 0; ; ) {
      let least = parent
      for (const child of [2 * parent + 1, 2 * parent + 2])
        if (child < paths.length && at(child) < at(least)) least = child
      if (least === parent) return
      swap(parent, least)
      parent = least
    }
  }
  return {
    get least() {
      return paths[0]
    },
    push: (path) => {
      paths.push(path)
      for (let child = paths.length - 1; child > 0; ) {
        const parent = (child - 1) >> 1
        if (at(parent) <= at(child)) return
        swap(parent, child)
        child = parent
      }
    },
    pop: () => {
      const last = paths.pop()
      if (last === undefined || paths.length === 0) return
      paths[0] = last
      sink()
    },
  }
}
