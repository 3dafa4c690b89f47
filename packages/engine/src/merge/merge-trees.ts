import { LIMITS, type MergeConflict } from '@bramble/protocol'
import { openImageNodes } from './image-nodes.ts'
import type { Merged, MergeFiles, MergeInput, MergeTrees } from './merge.ts'
import { makeMergeBudget } from './merge-contents.ts'
import type { Conflict, MergeContext } from './merge-context.ts'
import { findRenames } from './renames.ts'
import { resolvePath, resolveQuickly } from './resolve-path.ts'
import { type Results, settleStructure } from './structure.ts'
import { lineMerger } from './text/line-merger.ts'
import { formOf, type PathKey } from './tree-path.ts'
import { fillSilent, makePacer, pathsOf, readTable, type State, stateOf, type TreeTable } from './tree-table.ts'
import { writeTree } from './write-tree.ts'

/**
 * The steps: read the trees; find what was moved; merge each path by itself; make the paths fit each other; write the lines. The
 * rules are in `docs/merge.md`.
 */
export const mergeTrees: MergeTrees = async (input: MergeInput, files: MergeFiles): Promise<Merged> => {
  const { signal, strategy } = input
  const base = await readTable(input.base, signal)
  const branches: TreeTable[] = []
  for (const { tree } of input.branches) branches.push(await readTable(tree, signal))
  const tables = [base, ...branches]
  const image = openImageNodes(files.image)
  for (const branch of branches) await fillSilent(base, branch, image.node)
  const renames = await findRenames({ base, branches, image, files, signal })
  await using lines = lineMerger(signal)
  const context: MergeContext = {
    strategy,
    files,
    image,
    lines,
    budget: makeMergeBudget(),
    conflicts: new Map(),
    totals: { taken: 0, merged: 0 },
    statesAt: (key) => ({
      base: renames.base.has(key) ? renames.base.get(key) : stateOf(base, key),
      branches: branches.map((table, branch): State => {
        const moved = renames.branches[branch]
        return moved?.has(key) ? moved.get(key) : stateOf(table, key)
      }),
    }),
  }
  const paths = pathsOf(tables, renames.paths)
  const results: Results = { states: new Map(), extras: new Map() }
  const pace = makePacer(signal)
  for (const key of paths) {
    const pause = pace()
    if (pause !== undefined) await pause
    const states = context.statesAt(key)
    const outcome = resolveQuickly(context, states) ?? (await resolveSlowly(context, key, signal))
    results.states.set(key, outcome.state)
    if (outcome.conflict !== undefined) context.conflicts.set(key, outcome.conflict)
    if (outcome.extras !== undefined && outcome.extras.length > 0) results.extras.set(key, [...outcome.extras])
  }
  await settleStructure(context, paths, results)
  const refs = input.branches.map(({ ref }) => ref)
  const told = conflictsOf(context.conflicts, refs)
  if (strategy === 'fail' && context.conflicts.size > 0) return { ...told, totals: totalsOf(context) }
  const entries = await writeTree(context, tables, results, refs)
  return { entries, ...told, totals: totalsOf(context) }
}

const resolveSlowly = (context: MergeContext, key: PathKey, signal: AbortSignal | undefined) => {
  signal?.throwIfAborted()
  return resolvePath(context, key, context.statesAt(key))
}

const totalsOf = ({ totals, conflicts }: MergeContext): Merged['totals'] => ({ ...totals, conflicts: conflicts.size })

const conflictsOf = (
  conflicts: ReadonlyMap<PathKey, Conflict>,
  refs: readonly string[],
): Pick<Merged, 'conflicts' | 'truncated'> => {
  const keys = [...conflicts.keys()].sort()
  const told = keys.slice(0, LIMITS.maxConflicts.value).flatMap((key): MergeConflict[] => {
    const conflict = conflicts.get(key)
    if (conflict === undefined) return []
    const { kind, branches, lines, settled } = conflict
    const names = [...branches].sort((left, right) => left - right).map((branch) => refs[branch] ?? '')
    return [{ ...formOf(key), kind, branches: names, ...(lines && { lines }), ...(settled && { settled }) }]
  })
  return { conflicts: told, truncated: keys.length > told.length }
}
