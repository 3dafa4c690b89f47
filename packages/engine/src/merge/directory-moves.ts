import { parentOf } from '../snapshots/content/image-listing.ts'
import type { RenameMaps, RenameSearch } from './renames.ts'
import type { PathKey } from './tree-path.ts'
import { type FileNode, makePacer, mayBeDirectory, type Node, stateOf, type TreeTable } from './tree-table.ts'

/** Files of one directory that was removed; one with more is not looked for elsewhere. */
const maxMovedFiles = 10_000
/** Of them, those by whose bytes it is looked for. */
const maxSamples = 16
/** Directories that are looked for in one merge, and places where one may be. */
const maxMoves = 256

/**
 * A directory that one branch moved, as a whole, and in which another put something new: the new goes where the directory went.
 * It went to `e` if all files of the base below it are below `e` in that branch, at least half of them with the same bytes, and
 * `e` is new there.
 */
export const findDirectoryMoves = async (search: RenameSearch, maps: RenameMaps): Promise<void> => {
  const { branches } = search
  for (const [directory, added] of await removedWithNews(search)) {
    const movers = branches.flatMap((table, branch) => (stateOf(table, directory) === null ? [branch] : []))
    const targets = new Set<PathKey | undefined>()
    for (const branch of movers) {
      const table = branches[branch]
      if (table !== undefined) targets.add(await targetOf(search, table, directory))
    }
    const [target] = targets
    if (targets.size !== 1 || target === undefined) continue
    for (const { branch, key } of added) {
      if (movers.includes(branch)) continue
      const to = target + key.slice(directory.length)
      const moved = maps.branches[branch]
      const table = branches[branch]
      if (moved === undefined || table === undefined || table.entries.has(to)) continue
      moved.set(to, stateOf(table, key))
      moved.set(key, stateOf(search.base, key))
      maps.paths.add(to).add(key)
    }
    keepDirectories(search, maps, { directory, target, movers })
  }
}

interface DirectoryMove {
  readonly directory: PathKey
  readonly target: PathKey
  readonly movers: readonly number[]
}

/** The directories are the same ones: who did not move them has them, as they were or as he made them, at the new place. */
const keepDirectories = ({ base, branches }: RenameSearch, maps: RenameMaps, move: DirectoryMove): void => {
  const { directory, target, movers } = move
  const mover = branches[movers[0] ?? -1]
  if (mover === undefined) return
  for (const [to, node] of mover.entries) {
    if (node?.type !== 'directory' || (to !== target && !to.startsWith(`${target}/`))) continue
    const from = directory + to.slice(target.length)
    const before = stateOf(base, from)
    if (!mayBeDirectory(before)) continue
    branches.forEach((table, branch) => {
      const state = stateOf(table, from)
      if (movers.includes(branch) || !state || state.type !== 'directory' || table.entries.has(to)) return
      maps.branches[branch]?.set(to, state)
      maps.branches[branch]?.set(from, before)
      if (before !== undefined) maps.base.set(to, before)
      maps.paths.add(to).add(from)
    })
  }
}

interface Added {
  readonly branch: number
  readonly key: PathKey
}

/** The topmost removed directories below which another branch has something new, and what that is. */
const removedWithNews = async (search: RenameSearch): Promise<Map<PathKey, Added[]>> => {
  const { base, branches, signal } = search
  const found = new Map<PathKey, Added[]>()
  const pace = makePacer(signal)
  const topmost = (start: PathKey): PathKey | undefined => {
    let top: PathKey | undefined
    for (let above = start; above !== ''; above = parentOf(above)) {
      if (!mayBeDirectory(stateOf(base, above))) return undefined
      if (!branches.some((table) => stateOf(table, above) === null)) break
      top = above
    }
    return top
  }
  for (const [branch, table] of branches.entries())
    for (const [key, node] of table.entries) {
      const pause = pace()
      if (pause !== undefined) await pause
      if (node === null || stateOf(base, key)) continue
      const directory = topmost(parentOf(key))
      if (directory === undefined || (!found.has(directory) && found.size >= maxMoves)) continue
      if (stateOf(base, key) === undefined && (await search.image.node(key)) !== null) continue
      const list = found.get(directory)
      if (list === undefined) found.set(directory, [{ branch, key }])
      else list.push({ branch, key })
    }
  return found
}

const targetOf = async (search: RenameSearch, table: TreeTable, directory: PathKey): Promise<PathKey | undefined> => {
  const before = await filesBelow(search, directory)
  if (before === undefined || before.size === 0) return undefined
  const samples = [...before].slice(0, maxSamples)
  const hashes = new Set<string>(samples.map(([, { content }]) => content.sha256))
  const candidates = new Set<PathKey>()
  for (const [key, node] of table.entries) {
    if (node?.type !== 'file' || !hashes.has(node.content.sha256) || stateOf(search.base, key)) continue
    for (const [path, file] of samples) {
      const rest = path.slice(directory.length)
      if (file.content.sha256 === node.content.sha256 && key.endsWith(rest)) candidates.add(key.slice(0, -rest.length))
    }
    if (candidates.size > maxMoves) return undefined
  }
  const fits = [...candidates].filter((target) => fit(table, directory, target, before))
  const [one] = fits
  if (one === undefined || fits.length > 1 || stateOf(search.base, one)) return undefined
  return (await search.image.node(one)) === null || stateOf(search.base, one) === null ? one : undefined
}

const fit = (
  table: TreeTable,
  directory: PathKey,
  target: PathKey,
  before: ReadonlyMap<PathKey, FileNode>,
): boolean => {
  let equal = 0
  for (const [path, file] of before) {
    const node = table.entries.get(target + path.slice(directory.length))
    if (node?.type !== 'file') return false
    if (node.content.sha256 === file.content.sha256) equal++
  }
  return equal * 2 >= before.size && table.entries.get(target)?.type === 'directory'
}

/** The base's, the image's among them. Undefined: there are too many. */
const filesBelow = async (
  { base, image, signal }: RenameSearch,
  directory: PathKey,
): Promise<Map<PathKey, FileNode> | undefined> => {
  const found = new Map<PathKey, FileNode>()
  const add = (key: PathKey, node: Node | null): void => {
    if (node?.type === 'file' && node.content.sizeBytes > 0) found.set(key, node)
  }
  for (const [key, node] of base.entries) if (key.startsWith(`${directory}/`)) add(key, node)
  const left = [directory]
  for (let above = left.pop(); above !== undefined; above = left.pop())
    for (const name of await image.names(above)) {
      signal?.throwIfAborted()
      const key = `${above}/${name}`
      const state = stateOf(base, key)
      if (!mayBeDirectory(state)) continue
      const node = await image.node(key)
      if (node?.type === 'directory') left.push(key)
      else if (state === undefined) add(key, node)
      if (found.size > maxMovedFiles) return undefined
    }
  return found.size > maxMovedFiles ? undefined : found
}
