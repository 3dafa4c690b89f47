import type { DiffEntry, SnapshotDiff } from '@bramble/sdk'
import { formatBytes } from '../format.ts'
import { paint, safeLine } from '../terminal.ts'

const SIGNS = { added: '+', changed: '~', removed: '-' } as const
const STYLES = { added: 'green', changed: 'yellow', removed: 'red' } as const

/** A difference as people read it: a line for each path, with its sizes, and the totals at the end. */
export const diffText = (diff: SnapshotDiff, { color }: { color: boolean }): string => {
  const { items, truncated, totals } = diff
  if (items.length === 0) return 'no file is other in one than in the other'
  const names = items.map(nameOf)
  const sizes = items.map(sizeOf)
  const width = Math.max(...names.map((name) => name.length))
  const sizeWidth = Math.max(...sizes.map((size) => size.length))
  const lines = items.map(({ change }, at) => {
    const name = (names[at] ?? '').padEnd(width)
    return paint(STYLES[change], `${SIGNS[change]} ${name}  ${(sizes[at] ?? '').padStart(sizeWidth)}`.trimEnd(), color)
  })
  if (truncated) lines.push(paint('dim', `  … and more than these ${items.length}`, color))
  const { added, changed, removed, addedBytes, removedBytes } = totals
  const sum = [
    paint('green', `${added} added (+${formatBytes(addedBytes)})`, color),
    paint('yellow', `${changed} changed`, color),
    paint('red', `${removed} removed (-${formatBytes(removedBytes)})`, color),
  ]
  return [...lines, '', sum.join(', ')].join('\n')
}

/** Names that are no UTF-8 are shown as well as they can be. */
const nameOf = ({ path, encoding, type }: DiffEntry): string => {
  const text = encoding === 'base64' ? Buffer.from(path, 'base64').toString() : path
  return safeLine(`/${text}${type === 'directory' ? '/' : ''}`)
}

const sizeOf = ({ change, type, beforeBytes, afterBytes, attributesOnly }: DiffEntry): string => {
  if (attributesOnly === true) return 'attributes'
  if (type !== 'file') return type === 'directory' ? '' : type
  if (change === 'added') return afterBytes === undefined ? '' : formatBytes(afterBytes)
  if (change === 'removed') return beforeBytes === undefined ? '' : formatBytes(beforeBytes)
  return [beforeBytes, afterBytes].map((bytes) => (bytes === undefined ? '?' : formatBytes(bytes))).join(' → ')
}
