import type { MergeConflict } from '@bramble/sdk'
import { type Column, formatTable } from '../terminal.ts'
import { shortId } from './snapshot-columns.ts'

const WHAT = {
  content: 'both changed it',
  deleted: 'one removed it, another changed it',
  type: 'it became another kind of thing',
  attributes: 'its owner or mode',
} as const

const MAX_RANGES = 4

const whatText = ({ kind, lines }: MergeConflict): string => {
  if (lines === undefined || lines.length === 0) return WHAT[kind]
  const shown = lines.slice(0, MAX_RANGES).map(rangeText)
  if (lines.length > MAX_RANGES) shown.push('…')
  return `${WHAT[kind]}: ${shown.join(', ')}`
}

/** What both put in where nothing stood ends before it begins. */
const rangeText = ({ from, to }: { readonly from: number; readonly to: number }): string => {
  if (to < from) return `before line ${from}`
  return to === from ? `line ${from}` : `lines ${from}-${to}`
}

const pathText = ({ path, encoding }: MergeConflict): string =>
  `/${encoding === 'base64' ? Buffer.from(path, 'base64').toString() : path}`

/** Conflicts of a merge as a table. */
export const conflictText = (
  conflicts: readonly MergeConflict[],
  options: { color: boolean; width?: number | undefined },
): string => {
  const columns: Column<MergeConflict>[] = [
    { title: 'PATH', text: pathText, style: ({ settled }) => (settled === undefined ? 'red' : 'yellow') },
    { title: 'WHAT', text: whatText },
    ...(conflicts.some(({ settled }) => settled !== undefined)
      ? [{ title: 'SETTLED', text: ({ settled }: MergeConflict) => settled ?? '-' }]
      : []),
    { title: 'BRANCHES', text: ({ branches }) => branches.map(shortId).join(', ') },
  ]
  return formatTable(columns, conflicts, options)
}
