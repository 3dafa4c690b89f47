import type { MergeStrategy } from '@bramble/protocol'
import { type DiffBudget, diffLines, type Hunk } from './diff-lines.ts'
import { type Lines, makeLineReader, sliceLines } from './lines.ts'

/** One of the texts that the base became: the places (among the branches) of the first and last branch that have it. */
export interface TextVersion {
  readonly bytes: Uint8Array
  readonly first: number
  readonly last: number
}

export interface TextMerge {
  readonly bytes: Buffer
  /** Lines of the base, from 1 and with the last one, where versions disagree; `to` is `from - 1` where they insert only. */
  readonly conflicts: readonly { readonly from: number; readonly to: number }[]
}

interface Change extends Hunk {
  readonly version: number
}

interface Side {
  readonly lines: Lines
  readonly from: number
  readonly to: number
  readonly version: TextVersion
}

/**
 * Merges any number of versions of a text at once. Changes that do not touch are all taken; where some touch, they are taken if
 * they come to the same lines, and otherwise disagree. Since all versions are compared with the base and none with another's
 * result, their order decides nothing but the sides of `settle`.
 *
 * `settle` is per place: `ours` is the side of the earliest branch that disagrees there, `theirs` that of the latest, `union` has the
 * lines of all sides in order. With `fail` the bytes are those of `ours`, and mean nothing.
 */
export const mergeLines = (
  base: Uint8Array,
  versions: readonly TextVersion[],
  settle: MergeStrategy,
  budget: DiffBudget,
): TextMerge => {
  const read = makeLineReader()
  const before = read(base)
  const texts = versions.map(({ bytes }) => read(bytes))
  const changes = texts
    .flatMap(({ ids }, version) => diffLines(before.ids, ids, budget).map((hunk): Change => ({ ...hunk, version })))
    .sort((left, right) => left.from - right.from || left.to - right.to || left.version - right.version)
  const pieces: Buffer[] = []
  const conflicts: { from: number; to: number }[] = []
  let done = 0
  for (const region of regionsOf(changes)) {
    pieces.push(sliceLines(before, done, region.from))
    done = region.to
    const sides = distinct(sidesOf(region, texts, versions))
    if (sides.length > 1) conflicts.push({ from: region.from + 1, to: region.to })
    append(pieces, sides, settle)
  }
  pieces.push(sliceLines(before, done, before.ids.length))
  return { bytes: Buffer.concat(pieces), conflicts }
}

interface Region {
  readonly from: number
  readonly to: number
  readonly changes: readonly Change[]
}

/** Changes that overlap or touch, together. */
const regionsOf = (changes: readonly Change[]): Region[] => {
  const regions: { from: number; to: number; changes: Change[] }[] = []
  for (const change of changes) {
    const region = regions.at(-1)
    if (region !== undefined && change.from <= region.to) {
      region.to = Math.max(region.to, change.to)
      region.changes.push(change)
    } else regions.push({ from: change.from, to: change.to, changes: [change] })
  }
  return regions
}

/** What each version that changed something in the region has there. */
const sidesOf = (region: Region, texts: readonly Lines[], versions: readonly TextVersion[]): Side[] => {
  const spans = new Map<number, { from: number; to: number }>()
  for (const { version, from, to, newFrom, newTo } of region.changes) {
    const start = spans.get(version)?.from ?? newFrom - (from - region.from)
    spans.set(version, { from: start, to: newTo + (region.to - to) })
  }
  return [...spans].flatMap(([place, span]) => {
    const [lines, version] = [texts[place], versions[place]]
    return lines === undefined || version === undefined ? [] : [{ lines, version, ...span }]
  })
}

const lineAt = ({ lines, from }: Side, index: number): number | undefined => lines.ids[from + index]

const sameLines = (left: Side, right: Side): boolean => {
  const count = left.to - left.from
  if (count !== right.to - right.from) return false
  for (let index = 0; index < count; index++) if (lineAt(left, index) !== lineAt(right, index)) return false
  return true
}

/** Equal sides are one, of all the branches that have it. */
const distinct = (sides: readonly Side[]): Side[] => {
  const found: Side[] = []
  for (const side of sides) {
    const place = found.findIndex((one) => sameLines(one, side))
    const one = found[place]
    if (one === undefined) found.push(side)
    else {
      const first = Math.min(one.version.first, side.version.first)
      const last = Math.max(one.version.last, side.version.last)
      found[place] = { ...one, version: { ...one.version, first, last } }
    }
  }
  return found.sort((left, right) => left.version.first - right.version.first)
}

const append = (pieces: Buffer[], sides: readonly Side[], settle: MergeStrategy): void => {
  if (settle === 'union' && sides.length > 1) {
    appendUnion(pieces, sides)
    return
  }
  const chosen =
    settle === 'theirs'
      ? sides.reduce((left, right) => (right.version.last > left.version.last ? right : left))
      : sides[0]
  if (chosen !== undefined) pieces.push(sliceLines(chosen.lines, chosen.from, chosen.to))
}

/** Lines that all sides begin or end with are there once. */
const appendUnion = (pieces: Buffer[], sides: readonly Side[]): void => {
  const [first] = sides
  if (first === undefined) return
  const most = Math.min(...sides.map(({ from, to }) => to - from))
  let start = 0
  while (start < most && sides.every((side) => lineAt(side, start) === lineAt(first, start))) start++
  let end = 0
  const fromEnd = ({ lines, to }: Side): number | undefined => lines.ids[to - 1 - end]
  while (end < most - start && sides.every((side) => fromEnd(side) === fromEnd(first))) end++
  const parts = [
    sliceLines(first.lines, first.from, first.from + start),
    ...sides.map(({ lines, from, to }) => sliceLines(lines, from + start, to - end)),
    sliceLines(first.lines, first.to - end, first.to),
  ].filter((part) => part.length > 0)
  parts.forEach((part, place) => {
    pieces.push(part)
    if (place < parts.length - 1 && part.at(-1) !== 0x0a) pieces.push(newlineOf(sides))
  })
}

/** The line end that a side uses, for a last line that has none and is not the last any more. */
const newlineOf = (sides: readonly Side[]): Buffer =>
  Buffer.from(sides.some(({ lines }) => lines.bytes.includes('\r\n')) ? '\r\n' : '\n')
