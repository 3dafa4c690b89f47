import { slideChanges } from './slide-changes.ts'

/** Lines `[from, to)` of the text before became lines `[newFrom, newTo)` of the text after. */
export interface Hunk {
  readonly from: number
  readonly to: number
  readonly newFrom: number
  readonly newTo: number
}

/**
 * Steps that comparing may still take. Past them what is left of a text is taken as changed altogether: a valid difference,
 * if not the smallest one. A step is a few nanoseconds.
 */
export interface DiffBudget {
  steps: number
}

/** One box of the edit graph: lines `[a0, a1)` against `[b0, b1)`. */
interface Box {
  readonly a0: number
  readonly a1: number
  readonly b0: number
  readonly b1: number
}

/** Past this cost a box is cut at the farthest point that was reached, so that the time grows with n^1.5 and not with n². */
const minCutCost = 256

/**
 * The difference of two texts by Myers' algorithm in linear space (E. W. Myers, "An O(ND) Difference Algorithm and Its
 * Variations", 1986, section 4b). Lines that the other text does not have are set aside first. Hunks are in order, with at
 * least one common line between two of them.
 */
export const diffLines = (before: Int32Array, after: Int32Array, budget: DiffBudget): Hunk[] => {
  const removed = new Uint8Array(before.length).fill(1)
  const added = new Uint8Array(after.length).fill(1)
  const { start, end } = commonEnds(before, after)
  markCommon(removed, added, 0, 0, start)
  markCommon(removed, added, before.length - end, after.length - end, end)
  const a = shared(before.subarray(start, before.length - end), after)
  const b = shared(after.subarray(start, after.length - end), before)
  compare(a.ids, b.ids, budget, (x, y) => {
    removed[start + (a.lines[x] ?? 0)] = 0
    added[start + (b.lines[y] ?? 0)] = 0
  })
  slideChanges(before, removed, added)
  slideChanges(after, added, removed)
  return hunksOf(removed, added)
}

const commonEnds = (a: Int32Array, b: Int32Array): { start: number; end: number } => {
  const most = Math.min(a.length, b.length)
  let start = 0
  while (start < most && a[start] === b[start]) start++
  let end = 0
  while (end < most - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++
  return { start, end }
}

const markCommon = (removed: Uint8Array, added: Uint8Array, from: number, newFrom: number, count: number): void => {
  removed.fill(0, from, from + count)
  added.fill(0, newFrom, newFrom + count)
}

/** The lines of a text that the other has too, and where they stand in it. */
const shared = (ids: Int32Array, other: Int32Array): { ids: Int32Array; lines: Int32Array } => {
  const there = new Set(other)
  const lines = new Int32Array(ids.length)
  let count = 0
  for (let line = 0; line < ids.length; line++) if (there.has(ids[line] ?? -1)) lines[count++] = line
  const kept = lines.subarray(0, count)
  return { ids: kept.map((line) => ids[line] ?? -1), lines: kept }
}

const compare = (a: Int32Array, b: Int32Array, budget: DiffBudget, common: (x: number, y: number) => void): void => {
  if (a.length === 0 || b.length === 0) return
  const width = a.length + b.length + 3
  const search: Search = { a, b, budget, forward: new Int32Array(width), backward: new Int32Array(width) }
  const cutCost = Math.max(minCutCost, Math.ceil(Math.sqrt(width)))
  const boxes: Box[] = [{ a0: 0, a1: a.length, b0: 0, b1: b.length }]
  for (let box = boxes.pop(); box !== undefined; box = boxes.pop()) {
    let { a0, a1, b0, b1 } = box
    while (a0 < a1 && b0 < b1 && a[a0] === b[b0]) common(a0++, b0++)
    while (a0 < a1 && b0 < b1 && a[a1 - 1] === b[b1 - 1]) common(--a1, --b1)
    if (a0 === a1 || b0 === b1 || budget.steps <= 0) continue
    const [x, y] = middle(search, { a0, a1, b0, b1 }, cutCost)
    boxes.push({ a0: x, a1, b0: y, b1 }, { a0, a1: x, b0, b1: y })
  }
}

interface Search {
  readonly a: Int32Array
  readonly b: Int32Array
  readonly budget: DiffBudget
  /** By diagonal `x - y`, moved so that the least one is at 1: the farthest `x` that was reached from the start, or the end. */
  readonly forward: Int32Array
  readonly backward: Int32Array
}

const FAR = 0x7fffffff

/** A point on a shortest path through the box (or, past `cutCost`, on a good one) that is neither its start nor its end. */
const middle = (search: Search, { a0, a1, b0, b1 }: Box, cutCost: number): readonly [number, number] => {
  const { a, b, budget, forward, backward } = search
  const shift = b.length + 1
  const least = a0 - b1
  const most = a1 - b0
  const first = a0 - b0
  const last = a1 - b1
  const odd = ((first - last) & 1) !== 0
  const at = (list: Int32Array, diagonal: number): number => list[diagonal + shift] ?? 0
  let [low, high, backLow, backHigh] = [first, first, last, last]
  forward[first + shift] = a0
  backward[last + shift] = a1
  for (let cost = 1; ; cost++) {
    if (low > least) forward[--low - 1 + shift] = -1
    else low++
    if (high < most) forward[++high + 1 + shift] = -1
    else high--
    for (let diagonal = high; diagonal >= low; diagonal -= 2) {
      const left = at(forward, diagonal - 1)
      const up = at(forward, diagonal + 1)
      let x = left >= up ? left + 1 : up
      const from = x
      while (x < a1 && x - diagonal < b1 && a[x] === b[x - diagonal]) x++
      forward[diagonal + shift] = x
      budget.steps -= x - from + 1
      if (odd && diagonal >= backLow && diagonal <= backHigh && at(backward, diagonal) <= x) return [x, x - diagonal]
    }
    if (backLow > least) backward[--backLow - 1 + shift] = FAR
    else backLow++
    if (backHigh < most) backward[++backHigh + 1 + shift] = FAR
    else backHigh--
    for (let diagonal = backHigh; diagonal >= backLow; diagonal -= 2) {
      const left = at(backward, diagonal - 1)
      const up = at(backward, diagonal + 1)
      let x = left < up ? left : up - 1
      const from = x
      while (x > a0 && x - diagonal > b0 && a[x - 1] === b[x - 1 - diagonal]) x--
      backward[diagonal + shift] = x
      budget.steps -= from - x + 1
      if (!odd && diagonal >= low && diagonal <= high && x <= at(forward, diagonal)) return [x, x - diagonal]
    }
    if (cost >= cutCost || budget.steps <= 0)
      return farthest(search, { a0, a1, b0, b1 }, { low, high, backLow, backHigh })
  }
}

interface Reached {
  readonly low: number
  readonly high: number
  readonly backLow: number
  readonly backHigh: number
}

const farthest = ({ b, forward, backward }: Search, { a0, a1, b0, b1 }: Box, reached: Reached) => {
  const shift = b.length + 1
  let best: readonly [number, number] = [a0, b1]
  let gain = -1
  for (let diagonal = reached.low; diagonal <= reached.high; diagonal += 2) {
    const x = Math.min(forward[diagonal + shift] ?? 0, a1, b1 + diagonal)
    if (x < a0 || x - diagonal < b0 || x - a0 + (x - diagonal - b0) <= gain) continue
    gain = x - a0 + (x - diagonal - b0)
    best = [x, x - diagonal]
  }
  for (let diagonal = reached.backLow; diagonal <= reached.backHigh; diagonal += 2) {
    const x = Math.max(backward[diagonal + shift] ?? FAR, a0, b0 + diagonal)
    if (x > a1 || x - diagonal > b1 || a1 - x + (b1 - x + diagonal) <= gain) continue
    gain = a1 - x + (b1 - x + diagonal)
    best = [x, x - diagonal]
  }
  return best
}

const hunksOf = (removed: Uint8Array, added: Uint8Array): Hunk[] => {
  const hunks: Hunk[] = []
  let [x, y] = [0, 0]
  while (x < removed.length || y < added.length) {
    const [from, newFrom] = [x, y]
    while (removed[x] === 1) x++
    while (added[y] === 1) y++
    if (x > from || y > newFrom) hunks.push({ from, to: x, newFrom, newTo: y })
    x++
    y++
  }
  return hunks
}
