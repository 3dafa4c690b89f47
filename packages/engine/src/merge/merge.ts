import type { MergeConflict, MergeStrategy, SnapshotDiff, TreeEntry } from '@bramble/protocol'

/**
 * Differences between trees, and their three-way merge. A tree is what a snapshot changed of its image (`TreeEntry`, in the
 * order of the paths' bytes); all trees of one merge are of the same image. What a tree does not mention is as the image has
 * it: a merge that needs the image's bytes asks for them.
 */
export interface MergeInput {
  /** What the branches began from. */
  readonly base: Tree
  /** At least one; the first is `ours`. */
  readonly branches: readonly { readonly ref: string; readonly tree: Tree }[]
  readonly strategy: MergeStrategy
  readonly signal?: AbortSignal
}

export interface Tree {
  readonly entries: AsyncIterable<TreeEntry> | Iterable<TreeEntry>
}

/** Bytes that a merge by lines needs, at most `maxMergeTextBytes` each. */
export interface MergeFiles {
  /** Of a `file` entry of any of the trees. */
  read(entry: Extract<TreeEntry, { type: 'file' }>): Promise<Uint8Array>
  /** What the image has at a path; undefined: nothing. Needed where a branch changed what the base has as the image has it. */
  image(path: Buffer): Promise<ImageFile | undefined>
  /** Stores the bytes of a file merged by lines. */
  write(bytes: Uint8Array): Promise<Extract<TreeEntry, { type: 'file' }>['content']>
}

export interface ImageFile {
  readonly type: 'file' | 'directory' | 'symlink' | 'fifo' | 'other'
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly modifiedNs: string
  /** As in a `TreeEntry`; absent: nobody knows, and no attribute is taken for one that it had. */
  readonly xattrs?: Readonly<Record<string, string>>
  /** Of a regular file of at most `maxMergeTextBytes`. */
  read(): Promise<Uint8Array>
  /** What is in a directory, in any order. Needed where one branch removed a directory of the image and another kept it. */
  names(): Promise<readonly Buffer[]>
  /** Of a symlink. */
  readonly target?: Buffer
  readonly sizeBytes: number
}

export interface Merged {
  /** Absent: there are conflicts, and the strategy is `fail`. */
  readonly entries?: readonly TreeEntry[]
  readonly conflicts: readonly MergeConflict[]
  readonly truncated: boolean
  readonly totals: { readonly taken: number; readonly merged: number; readonly conflicts: number }
}

export type MergeTrees = (input: MergeInput, files: MergeFiles) => Promise<Merged>

/** `image` tells what was there before, where one tree mentions a path and the other does not. */
export type DiffTrees = (
  from: Tree,
  to: Tree,
  image: MergeFiles['image'],
  options?: { signal?: AbortSignal },
) => Promise<Omit<SnapshotDiff, 'from' | 'to'>>
