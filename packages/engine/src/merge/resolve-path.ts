import { bySide, type Given, mergeAttributes, type Side } from './attributes.ts'
import { grounded, mergeContents } from './merge-contents.ts'
import type { Conflict, Extra, MergeContext, Outcome, States } from './merge-context.ts'
import { latest, sameButTime, sameNode, sameState, sameSubstance } from './node-rules.ts'
import type { PathKey } from './tree-path.ts'
import type { FileNode, Node, State } from './tree-table.ts'

/** One way in which a path was changed, and the first and last branch that did. */
interface Version {
  readonly state: State
  readonly first: number
  last: number
  readonly branches: number[]
}

/** A version whose node is known, where it is the image's, too. */
interface KnownVersion extends Version {
  readonly node: Node | null
}

const versionsOf = ({ base, branches }: States): Version[] => {
  const versions: Version[] = []
  branches.forEach((state, branch) => {
    if (sameState(state, base)) return
    const same = versions.find((version) => sameState(version.state, state))
    if (same === undefined) versions.push({ state, first: branch, last: branch, branches: [branch] })
    else {
      same.last = branch
      same.branches.push(branch)
    }
  })
  return versions
}

/** What needs no question: nobody changed the path, or all who did agree but for the time. Undefined: it does. */
export const resolveQuickly = (context: MergeContext, states: States): Outcome | undefined => {
  if (states.branches.every((state) => state === states.base)) return { state: states.base }
  const versions = versionsOf(states)
  const [one, ...others] = versions
  if (one === undefined) return { state: states.base }
  if (others.length === 0) {
    context.totals.taken++
    return { state: one.state }
  }
  const node = one.state
  if (!node) return undefined
  const nodes = others.map(({ state }) => state)
  if (!nodes.every((other): other is Node => !!other && sameButTime(node, other))) return undefined
  context.totals.taken++
  return { state: latest(node, nodes) }
}

/** A three-way merge of one path, by itself: what is above and below it is not looked at. */
export const resolvePath = async (context: MergeContext, key: PathKey, states: States): Promise<Outcome> => {
  const quick = resolveQuickly(context, states)
  if (quick !== undefined) return quick
  const known = async (state: State): Promise<Node | null> => (state === undefined ? context.image.node(key) : state)
  const base = await known(states.base)
  const versions: KnownVersion[] = []
  for (const version of versionsOf(states)) versions.push({ ...version, node: await known(version.state) })
  const isBase = ({ node }: KnownVersion): boolean => (base && node ? sameNode(base, node) : base === node)
  const isTouch = ({ node }: KnownVersion): boolean => !!base && !!node && sameButTime(base, node)
  const changed = unite(versions.filter((version) => !isBase(version)))
  const touched = changed.filter(isTouch).flatMap(({ node }) => node ?? [])
  const real = changed.filter((version) => !isTouch(version))
  const [one] = real.length > 0 ? real : changed
  if (one === undefined) return { state: states.base }
  if (real.length < 2) {
    context.totals.taken++
    return { state: withTime(one, touched) }
  }
  return resolveDisagreement(context, { base, versions: real, touched })
}

const withTime = ({ state, node }: KnownVersion, touched: readonly Node[]): State => {
  const same = touched.filter(({ type }) => type === node?.type)
  return state && same.length > 0 ? latest(state, same) : state
}

/** Versions that were told apart only as long as nobody knew what the image has. */
const unite = (versions: readonly KnownVersion[]): KnownVersion[] => {
  const united: KnownVersion[] = []
  for (const version of versions) {
    const same = united.find(({ node }) =>
      node && version.node ? sameNode(node, version.node) : node === version.node,
    )
    if (same === undefined) united.push(version)
    else {
      same.last = Math.max(same.last, version.last)
      same.branches.push(...version.branches)
    }
  }
  return united
}

interface Disagreement {
  readonly base: Node | null
  /** At least two, each other than the base in more than its time. */
  readonly versions: readonly KnownVersion[]
  readonly touched: readonly Node[]
}

const sideOf = ({ strategy }: MergeContext): Side => (strategy === 'theirs' ? 'theirs' : 'ours')
const keepsAll = ({ strategy }: MergeContext): boolean => strategy === 'union' || strategy === 'fail'

const conflictOf = (context: MergeContext, kind: Conflict['kind'], versions: readonly KnownVersion[]): Conflict => ({
  kind,
  branches: new Set(versions.flatMap(({ branches }) => branches)),
  ...(context.strategy !== 'fail' && { settled: kind === 'attributes' ? sideOf(context) : context.strategy }),
})

/** First whether it is there, then what it is, then what is in it: each step goes on with the versions that the one before left. */
const resolveDisagreement = async (
  context: MergeContext,
  { base, versions, touched }: Disagreement,
): Promise<Outcome> => {
  let conflict: Conflict | undefined
  let left = versions
  const extras: Extra[] = []
  const present = left.filter(({ node }) => node !== null)
  if (present.length < left.length) {
    if (present.length > 0) conflict = conflictOf(context, 'deleted', left)
    const chosen = bySide(left, sideOf(context))
    if (present.length === 0 || (!keepsAll(context) && chosen.node === null))
      return { state: chosen.state, ...(conflict && { conflict }) }
    left = present
  }
  const types = new Set(left.map(({ node }) => node?.type))
  if (types.size > 1) {
    conflict ??= conflictOf(context, 'type', left)
    // Where all are kept, a directory keeps the name: what is below it stays where it is.
    const type = keepsAll(context) && types.has('directory') ? 'directory' : bySide(left, sideOf(context)).node?.type
    const others = left.filter(({ node }) => node?.type !== type)
    if (keepsAll(context)) extras.push(...others.flatMap(extraOf))
    left = left.filter(({ node }) => node?.type === type)
  }
  const merged = await mergeSameType(context, { base, versions: left, touched })
  conflict ??= merged.conflict
  const kept: Extra[] = []
  for (const { node, branch } of [...extras, ...(merged.extras ?? [])]) {
    const stored = await grounded(context, node)
    if (stored !== undefined) kept.push({ node: stored, branch })
  }
  const state = merged.state && (await grounded(context, merged.state))
  return { state, ...(conflict && { conflict }), extras: kept }
}

const extraOf = ({ node, first }: KnownVersion): Extra[] => (node ? [{ node, branch: first }] : [])

const mergeSameType = async (context: MergeContext, { base, versions, touched }: Disagreement): Promise<Outcome> => {
  const [one] = versions
  if (!one?.node) return { state: one?.state }
  const { type } = one.node
  if (versions.length === 1) return { state: withTime(one, touched) }
  const baseNode = base?.type === type ? base : undefined
  const nodes = versions.flatMap(({ node, first, last }): Given<Node>[] => (node ? [{ value: node, first, last }] : []))
  const { attributes, conflict: unequal } = mergeAttributes(baseNode, nodes, sideOf(context))
  const substance = await mergeSubstance(context, { base: baseNode, versions, nodes })
  const conflict =
    substance.conflict ?? (unequal.length > 0 ? attributeConflict(context, versions, unequal) : undefined)
  const { xattrs: _, ...plain } = substance.node
  const node = latest(
    { ...plain, ...attributes },
    touched.filter((touch) => touch.type === type),
  )
  return { state: node, ...(conflict && { conflict }), ...(substance.extras && { extras: substance.extras }) }
}

const attributeConflict = (
  context: MergeContext,
  versions: readonly KnownVersion[],
  unequal: readonly { readonly first: number }[],
): Conflict => {
  const firsts = new Set(unequal.map(({ first }) => first))
  return conflictOf(
    context,
    'attributes',
    versions.filter(({ first }) => firsts.has(first)),
  )
}

interface Substance {
  readonly node: Node
  readonly conflict?: Conflict
  readonly extras?: readonly Extra[]
}

/** What is in a file, or where a symlink leads; what has neither is equal. */
const mergeSubstance = async (
  context: MergeContext,
  {
    base,
    versions,
    nodes,
  }: { base: Node | undefined; versions: readonly KnownVersion[]; nodes: readonly Given<Node>[] },
): Promise<Substance> => {
  const changed = distinctSubstances(nodes.filter(({ value }) => base === undefined || !sameSubstance(value, base)))
  const [one, ...others] = changed
  const node = one?.value ?? nodes[0]?.value
  if (node === undefined) throw new RangeError('there is nothing to merge')
  if (others.length === 0) {
    // Of equal ones, one that a tree has: its content is stored already.
    const stored = versions.find(({ state }) => state && sameSubstance(state, node))?.state
    return { node: stored ?? node }
  }
  const disagreeing = versions.filter(({ node: of }) => of && (base === undefined || !sameSubstance(of, base)))
  if (node.type === 'file') {
    const merged = await mergeContents(context, base?.type === 'file' ? base : undefined, changed as Given<FileNode>[])
    if (merged !== undefined) {
      const conflict =
        merged.lines.length > 0 ? { ...conflictOf(context, 'content', disagreeing), lines: merged.lines } : undefined
      if (conflict === undefined) context.totals.merged++
      return { node: { ...node, content: merged.content }, ...(conflict && { conflict }) }
    }
  }
  const chosen = bySide(changed, sideOf(context))
  return {
    node: chosen.value,
    conflict: conflictOf(context, 'content', disagreeing),
    extras: keepsAll(context)
      ? changed.filter((version) => version !== chosen).map(({ value, first }) => ({ node: value, branch: first }))
      : [],
  }
}

const distinctSubstances = (nodes: readonly Given<Node>[]): Given<Node>[] => {
  const distinct: Given<Node>[] = []
  for (const node of nodes) {
    const place = distinct.findIndex(({ value }) => sameSubstance(value, node.value))
    const same = distinct[place]
    if (same === undefined) distinct.push(node)
    else
      distinct[place] = {
        value: same.value,
        first: Math.min(same.first, node.first),
        last: Math.max(same.last, node.last),
      }
  }
  return distinct
}
