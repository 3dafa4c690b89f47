import type { TreeEntry } from '@bramble/protocol'
import { parentOf } from '../snapshots/content/image-listing.ts'
import { toBytePath } from '../snapshots/content/tree-path.ts'
import { mergeLinks } from './hard-links.ts'
import { grounded } from './merge-contents.ts'
import type { MergeContext } from './merge-context.ts'
import type { Results } from './structure.ts'
import { formOf, formWithTarget, nameOf, type PathKey } from './tree-path.ts'
import { mayBeDirectory, type Node, type TreeTable } from './tree-table.ts'

/** A directory that no tree and no image tells about, above something that a tree has. */
const UNKNOWN_DIRECTORY = { mode: 0o755, uid: 0, gid: 0, modifiedNs: '0' }

/** The lines of the result: in order, each below directories that are there, and nothing deleted that need not be. */
export const writeTree = async (
  context: MergeContext,
  tables: readonly TreeTable[],
  results: Results,
  names: readonly string[],
): Promise<TreeEntry[]> => {
  const { states } = results
  await placeExtras(context, results, names)
  await hideFromImage(context, results)
  const keys = [...states.keys()].sort()
  const kept = new Map<PathKey, Node | null>()
  for (const key of keys) {
    const state = states.get(key)
    const above = parentOf(key)
    if (state === undefined || (above !== '' && !mayBeDirectory(states.get(above)))) continue
    if (state !== null) {
      const told = tables.some(({ silent }) => silent.get(key) === state) ? undefined : await grounded(context, state)
      if (told !== undefined) kept.set(key, told)
    } else if (tables.some(({ entries }) => entries.get(key) === null) || (await context.image.exists(key)))
      kept.set(key, null)
  }
  await addParents(context, kept)
  const links = mergeLinks(tables, states)
  return [...kept.keys()].sort().map((key) => lineOf(key, kept.get(key) ?? null, links.get(key)))
}

const lineOf = (key: PathKey, node: Node | null, first: PathKey | undefined): TreeEntry => {
  if (node === null) return { type: 'deleted', ...formOf(key) }
  if (first !== undefined) return { type: 'link', ...formWithTarget(key, first) }
  const { path: _, encoding, ...rest } = node
  if (rest.type !== 'symlink') return { ...rest, ...formOf(key) }
  return { ...rest, ...formWithTarget(key, toBytePath(rest.target, encoding)) }
}

const addParents = async (context: MergeContext, kept: Map<PathKey, Node | null>): Promise<void> => {
  for (const key of [...kept.keys()])
    for (let above = parentOf(key); above !== '' && !kept.has(above); above = parentOf(above)) {
      const node = await context.image.node(above)
      kept.set(above, node?.type === 'directory' ? node : { type: 'directory', path: above, ...UNKNOWN_DIRECTORY })
    }
}

/**
 * Below a directory of the image that one branch removed and that is there after all, what the branch removed of the image's
 * files without a word is deleted one by one.
 */
const hideFromImage = async (context: MergeContext, { states }: Results): Promise<void> => {
  for (const [key, state] of states) {
    if (!mayBeDirectory(state)) continue
    const { base, branches } = context.statesAt(key)
    if ([base, ...branches].every(mayBeDirectory)) continue
    for (const name of await context.image.names(key)) {
      const below = `${key}/${name}`
      if (states.has(below)) continue
      const one = context.statesAt(below)
      const removed =
        one.base === undefined ? one.branches.includes(null) : one.branches.every((state) => state === null)
      if (removed) states.set(below, null)
    }
  }
}

const maxNameBytes = 255

/** What a union keeps twice stands beside what has the name: `name~branch`. */
const placeExtras = async (
  context: MergeContext,
  { states, extras }: Results,
  names: readonly string[],
): Promise<void> => {
  for (const [key, list] of extras) {
    const above = parentOf(key)
    if (above !== '' && !mayBeDirectory(states.get(above))) continue
    for (const { node, branch } of list) {
      const path = await freePath(key, names[branch] ?? `${branch}`, async (one) => {
        return states.has(one) || (await context.image.exists(one))
      })
      states.set(path, node)
    }
  }
}

const freePath = async (key: PathKey, branch: string, taken: (path: PathKey) => Promise<boolean>): Promise<PathKey> => {
  const above = parentOf(key)
  const mark = `~${branch.replace(/[^a-zA-Z0-9._-]/g, '-').slice(0, 64)}`
  for (let count = 1; ; count++) {
    const suffix = count === 1 ? mark : `${mark}-${count}`
    const name = `${nameOf(key).slice(0, maxNameBytes - suffix.length)}${suffix}`
    const path = above === '' ? name : `${above}/${name}`
    if (!(await taken(path))) return path
  }
}
