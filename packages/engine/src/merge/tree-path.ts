import type { TreeEntry } from '@bramble/protocol'
import type { BytePath } from '@bramble/runtime'
import { toTreePath } from '../snapshots/content/tree-path.ts'

/** A path by which trees are compared: equal strings are equal paths, and sorting by code units sorts bytes. */
export type PathKey = BytePath

/** The form of a path in a line of a tree. */
export type PathForm = Pick<TreeEntry, 'path' | 'encoding'>

export const formOf = (key: PathKey): PathForm => {
  const { path, encoding } = toTreePath(key)
  return { path, ...(encoding && { encoding }) }
}

export const formWithTarget = (key: PathKey, to: PathKey): PathForm & { readonly target: string } => {
  const { path, encoding, target = '' } = toTreePath(key, to)
  return { path, target, ...(encoding && { encoding }) }
}

export const nameOf = (key: PathKey): string => key.slice(key.lastIndexOf('/') + 1)
