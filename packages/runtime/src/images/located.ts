import type { ByteBudget } from './byte-budget.ts'
import type { FillRootfs, OnImportProgress } from './image-store.ts'
import type { LayoutConfig } from './oci-layout.ts'
import type { ImageTools } from './run-tool.ts'
import type { EntryBudget } from './write-layer.ts'

/** What one import works with. */
export interface ImportContext {
  readonly tools: ImageTools
  /** A temporary directory of this import, removed by whoever made it. */
  readonly work: string
  readonly bytes: ByteBudget
  readonly entries: EntryBudget
  readonly signal: AbortSignal
  readonly progress: OnImportProgress
}

/** An image whose digest is known, before the costly part of bringing it in. */
export interface Located {
  readonly digest: string
  /** For people: the kind, and the name there. */
  readonly source: string
  /** The name it gets when none is asked for. */
  readonly defaultName?: string | undefined
  /** There is no layout then: it writes the root filesystem itself. */
  readonly fill?: FillRootfs
  /** Writes a checked layout of plain layers to `layoutPath(context)`, and gives the config that commands use. */
  fetch(context: ImportContext): Promise<LayoutConfig>
}

/** Where `fetch` leaves the layout. */
export const layoutPath = (context: Pick<ImportContext, 'work'>): string => `${context.work}/layout`
