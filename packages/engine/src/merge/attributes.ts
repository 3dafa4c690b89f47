import { later, type Xattrs } from './node-rules.ts'
import type { Node } from './tree-table.ts'

export interface Attributes {
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly modifiedNs: string
  readonly xattrs?: Record<string, string>
}

/** A value that branches gave, with the first and the last of them. */
export interface Given<T> {
  readonly value: T
  readonly first: number
  readonly last: number
}

export type Side = 'ours' | 'theirs'

/** The branches that do not agree; empty: they do. */
export interface Settled<T> {
  readonly value: T
  readonly conflict: readonly Given<T>[]
}

/** Three-way: what some changed, if they agree. `base` is `none` where there is nothing to compare with. */
export const settle = <T>(base: T | typeof none, given: readonly Given<T>[], side: Side): Settled<T> => {
  const changed = given.filter(({ value }) => value !== base)
  const [one] = changed
  if (one === undefined) {
    const [any] = given
    if (any === undefined) throw new RangeError('there is nothing to settle')
    return { value: any.value, conflict: [] }
  }
  if (changed.every(({ value }) => value === one.value)) return { value: one.value, conflict: [] }
  return { value: bySide(changed, side).value, conflict: changed }
}

/** Where two sides have nothing in common that they changed. */
export const none = Symbol('none')

export const bySide = <T extends { readonly first: number; readonly last: number }>(
  list: readonly T[],
  side: Side,
): T =>
  list.reduce((chosen, next) =>
    side === 'ours' ? (next.first < chosen.first ? next : chosen) : next.last > chosen.last ? next : chosen,
  )

/** Each attribute by itself; the time is the latest one. */
export const mergeAttributes = (
  base: Node | undefined,
  nodes: readonly Given<Node>[],
  side: Side,
): { attributes: Attributes; conflict: readonly { first: number; last: number }[] } => {
  const conflict: { first: number; last: number }[] = []
  const merge = <T>(of: (node: Node) => T): T => {
    const given = nodes.map(({ value, first, last }) => ({ value: of(value), first, last }))
    const settled = settle(base === undefined ? none : of(base), given, side)
    conflict.push(...settled.conflict)
    return settled.value
  }
  const xattrs: Record<string, string> = {}
  const has = ({ xattrs: some }: Node): Xattrs => some ?? {}
  const names = new Set(nodes.flatMap(({ value }) => Object.keys(has(value))))
  for (const name of [...names].sort()) {
    // Where there is no base, an attribute that one of them has was added by it.
    const given = nodes.map(({ value, first, last }) => ({ value: has(value)[name], first, last }))
    const settled = settle(base === undefined ? undefined : has(base)[name], given, side)
    conflict.push(...settled.conflict)
    if (settled.value !== undefined) xattrs[name] = settled.value
  }
  return {
    attributes: {
      mode: merge(({ mode }) => mode),
      uid: merge(({ uid }) => uid),
      gid: merge(({ gid }) => gid),
      modifiedNs: nodes.map(({ value }) => value.modifiedNs).reduce(later),
      ...(Object.keys(xattrs).length > 0 && { xattrs }),
    },
    conflict,
  }
}
