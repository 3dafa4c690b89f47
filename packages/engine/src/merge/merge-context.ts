import type { MergeConflict, MergeStrategy } from '@bramble/protocol'
import type { ImageNodes } from './image-nodes.ts'
import type { MergeFiles } from './merge.ts'
import type { DiffBudget } from './text/diff-lines.ts'
import type { LineMerger } from './text/line-merger.ts'
import type { PathKey } from './tree-path.ts'
import type { Node, State } from './tree-table.ts'

/** What goes with one merge from step to step. Branches are numbers: their places in the request. */
export interface MergeContext {
  readonly strategy: MergeStrategy
  readonly files: MergeFiles
  readonly image: ImageNodes
  readonly lines: LineMerger
  readonly budget: DiffBudget
  readonly conflicts: Map<PathKey, Conflict>
  readonly totals: { taken: number; merged: number }
  /** What a path is in the base, and in each branch; renames are followed. */
  statesAt(key: PathKey): States
}

export interface States {
  readonly base: State
  readonly branches: readonly State[]
}

export interface Conflict {
  readonly kind: MergeConflict['kind']
  readonly branches: Set<number>
  readonly lines?: MergeConflict['lines']
  readonly settled?: MergeConflict['settled']
}

/** What a union keeps beside what has the path's name. */
export interface Extra {
  readonly node: Node
  readonly branch: number
}

export interface Outcome {
  readonly state: State
  readonly conflict?: Conflict
  readonly extras?: readonly Extra[]
}
