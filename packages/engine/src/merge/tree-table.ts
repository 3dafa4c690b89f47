import { setImmediate } from 'node:timers/promises'
import { BrambleError, type TreeEntry } from '@bramble/protocol'
import { parentOf } from '../snapshots/content/image-listing.ts'
import { toBytePath } from '../snapshots/content/tree-path.ts'
import type { Tree } from './merge.ts'
import type { PathKey } from './tree-path.ts'

/** What a path is: a further name of a file is that file. Its own `path` may be another's: only the rest counts. */
export type Node = Exclude<TreeEntry, { type: 'link' | 'deleted' }>
export type FileNode = Extract<Node, { type: 'file' }>

/** `null`: nothing is there; `undefined`: what the image has. */
export type State = Node | null | undefined

/** A tree in memory. */
export interface TreeTable {
  /** In the order of the paths' bytes. `null`: a line says that it is deleted. */
  readonly entries: ReadonlyMap<PathKey, Node | null>
  /** Further names of a file, each with the first. */
  readonly links: ReadonlyMap<PathKey, PathKey>
  /** What the image has where no line tells of a path, though the base's tree does: mostly nothing. Directories are not in it. */
  readonly silent: Map<PathKey, Node | null>
}

const pausePaths = 4096

/** Lets others run, and the signal be seen, every few thousand steps. */
export const makePacer = (signal: AbortSignal | undefined): (() => Promise<void> | undefined) => {
  let steps = 0
  return () => {
    if (++steps % pausePaths !== 0) return undefined
    signal?.throwIfAborted()
    return setImmediate()
  }
}

export const readTable = async (tree: Tree, signal?: AbortSignal): Promise<TreeTable> => {
  const entries = new Map<PathKey, Node | null>()
  const links = new Map<PathKey, PathKey>()
  const add = (entry: TreeEntry): void => {
    const key = toBytePath(entry.path, entry.encoding)
    if (entry.type !== 'link') entries.set(key, entry.type === 'deleted' ? null : entry)
    else {
      const target = toBytePath(entry.target, entry.encoding)
      const file = entries.get(target)
      if (file?.type !== 'file')
        throw new BrambleError('internal', { detail: `a tree has ${entry.path} as a name of no file before it` })
      entries.set(key, file)
      links.set(key, target)
    }
  }
  const pace = makePacer(signal)
  signal?.throwIfAborted()
  if (Symbol.asyncIterator in tree.entries) for await (const entry of tree.entries) add(entry)
  else
    for (const entry of tree.entries) {
      add(entry)
      const pause = pace()
      if (pause !== undefined) await pause
    }
  return { entries, links, silent: new Map() }
}

const toldOf = ({ entries, silent }: TreeTable, key: PathKey): State => {
  const entry = entries.get(key)
  return entry === undefined ? silent.get(key) : entry
}

/** Nothing is below a path that is no directory, whatever the image has there. */
export const stateOf = (table: TreeTable, key: PathKey): State => {
  const told = toldOf(table, key)
  if (told !== undefined) return told
  for (let above = parentOf(key); above !== ''; above = parentOf(above)) {
    const directory = toldOf(table, above)
    if (directory !== undefined) return directory?.type === 'directory' ? undefined : null
  }
  return undefined
}

/**
 * What the base has and a branch says nothing of is as the image has it, which is mostly not at all: the branch removed it. It is
 * asked here, so that all that follows knows.
 */
export const fillSilent = async (
  base: TreeTable,
  branch: TreeTable,
  imageNode: (key: PathKey) => Promise<Node | null>,
): Promise<void> => {
  for (const [key, node] of base.entries) {
    if (node === null || branch.entries.has(key)) continue
    const above = parentOf(key)
    const hidden = above !== '' && !mayBeDirectory(stateOf(branch, above))
    const there = hidden ? null : await imageNode(key)
    if (there?.type !== 'directory') branch.silent.set(key, there)
  }
}

export const mayBeDirectory = (state: State): boolean => state === undefined || state?.type === 'directory'

/** All paths that any of the tables, or `more`, mentions, and their parents, in order. */
export const pathsOf = (tables: readonly TreeTable[], more: Iterable<PathKey> = []): PathKey[] => {
  const all = new Set<PathKey>()
  const add = (key: PathKey): void => {
    for (let path = key; path !== '' && !all.has(path); path = parentOf(path)) all.add(path)
  }
  for (const { entries } of tables) for (const key of entries.keys()) add(key)
  for (const key of more) add(key)
  return [...all].sort()
}
