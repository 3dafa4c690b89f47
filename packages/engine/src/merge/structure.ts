import { parentOf } from '../snapshots/content/image-listing.ts'
import type { Conflict, Extra, MergeContext } from './merge-context.ts'
import { sameState } from './node-rules.ts'
import { resolvePath } from './resolve-path.ts'
import type { PathKey } from './tree-path.ts'
import { mayBeDirectory, type State } from './tree-table.ts'

export interface Results {
  readonly states: Map<PathKey, State>
  readonly extras: Map<PathKey, Extra[]>
}

/** What is to be below a path that came out as no directory. */
interface Below {
  /** A conflict was settled for something there: it is not given up again. */
  kept: boolean
  readonly branches: Set<number>
}

/**
 * Each path was merged by itself; here they are made to fit: something below a directory that another branch removed, or put
 * something else in place of. That is one conflict, of the topmost such directory, and the side that wins has either the
 * directory with what is below it, or neither.
 */
export const settleStructure = async (
  context: MergeContext,
  paths: readonly PathKey[],
  results: Results,
): Promise<void> => {
  const { states } = results
  const broken = await findBroken(context, paths, results)
  const directories = [...broken.keys()].sort()
  const revived = new Set<PathKey>()
  for (const key of directories) {
    const below = broken.get(key)
    const above = parentOf(key)
    const dropped = above !== '' && !mayBeDirectory(states.get(above))
    if (below === undefined || dropped) continue
    const state = states.get(key)
    const silent = revived.has(above) || (below.kept && !state)
    if (silent || settleBroken(context, key, below, state) || below.kept) {
      revived.add(key)
      await revive(context, key, results)
    }
  }
  if (broken.size === 0) return
  for (const key of paths) {
    const above = parentOf(key)
    if (above !== '' && !mayBeDirectory(states.get(above))) states.set(key, null)
  }
}

const findBroken = async (
  context: MergeContext,
  paths: readonly PathKey[],
  { states, extras }: Results,
): Promise<Map<PathKey, Below>> => {
  const broken = new Map<PathKey, Below>()
  for (let place = paths.length - 1; place >= 0; place--) {
    const key = paths[place] ?? ''
    const state = states.get(key)
    const above = parentOf(key)
    const deeper = broken.get(key)
    if (above === '' || mayBeDirectory(states.get(above))) continue
    if (!state && deeper === undefined && (state === null || !(await context.image.exists(key)))) continue
    const below = broken.get(above) ?? { kept: false, branches: new Set<number>() }
    broken.set(above, below)
    below.kept ||= deeper?.kept === true || (state !== null && context.conflicts.has(key)) || extras.has(key)
    for (const branch of deeper?.branches ?? []) below.branches.add(branch)
    const { base, branches } = context.statesAt(key)
    branches.forEach((one, branch) => {
      if (one !== null && !sameState(one, base)) below.branches.add(branch)
    })
  }
  return broken
}

/** Records the conflict. True: what is below wins. */
const settleBroken = (
  { strategy, conflicts, statesAt }: MergeContext,
  key: PathKey,
  below: Below,
  state: State,
): boolean => {
  const known = conflicts.get(key)
  if (known !== undefined) {
    for (const branch of below.branches) known.branches.add(branch)
    return strategy === 'union' || strategy === 'fail'
  }
  const against = statesAt(key).branches.flatMap((one, branch) => (mayBeDirectory(one) ? [] : [branch]))
  const branches = new Set([...against, ...below.branches].sort((left, right) => left - right))
  const conflict: Conflict = {
    kind: state ? 'type' : 'deleted',
    branches,
    ...(strategy !== 'fail' && { settled: strategy }),
  }
  conflicts.set(key, conflict)
  const all = [...branches]
  if (strategy === 'ours') return !against.includes(all[0] ?? -1)
  return strategy !== 'theirs' || !against.includes(all.at(-1) ?? -1)
}

/** The directory, as those have it who did not take it away. */
const revive = async (context: MergeContext, key: PathKey, { states, extras }: Results): Promise<void> => {
  const lost = states.get(key)
  const { base, branches } = context.statesAt(key)
  const instead = mayBeDirectory(base) ? base : branches.find(mayBeDirectory)
  const kept = branches.map((state) => (mayBeDirectory(state) ? state : instead))
  const { state } = await resolvePath(context, key, { base: instead, branches: kept })
  states.set(key, mayBeDirectory(state) ? state : instead)
  if (!lost || context.strategy !== 'union') return
  const branch = branches.findIndex((one) => one && !mayBeDirectory(one))
  extras.set(key, [...(extras.get(key) ?? []), { node: lost, branch: Math.max(0, branch) }])
}
