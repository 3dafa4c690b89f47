import { type BlobStore, readContent } from '@bramble/blobs'
import { BrambleError, type Content, LIMITS, type TreeEntry } from '@bramble/protocol'
import type { Abortable, BytePath } from '@bramble/runtime'
import { pathOfEntry } from './tree-entry.ts'
import { parseTreeLine } from './tree-line.ts'

/** A content of `maxBlobBytes` in pieces of 256 KiB has a line of this length. */
const MAX_LINE_BYTES = 64 * 1024 * 1024
const NEWLINE = 0x0a

export interface TreeLine {
  readonly entry: TreeEntry
  readonly path: BytePath
}

/**
 * The lines of a stored tree, each checked: its form, its path, and that it comes after the one before. Rejects with
 * `import_refused`, and the errors of stores.
 */
export async function* readTreeLines(
  store: BlobStore,
  tree: Content,
  options: Abortable = {},
): AsyncGenerator<TreeLine, void, undefined> {
  let before: BytePath | undefined
  let entries = 0
  for await (const line of linesOf(readContent(store, tree, options))) {
    const entry = parseTreeLine(line)
    const path = pathOfEntry(entry)
    if (before !== undefined && path <= before) throw refused('it has a path twice, or too late')
    if (++entries > LIMITS.maxSnapshotEntries.value) throw refused('it has too many lines')
    before = path
    yield { entry, path }
  }
}

/** As `readTreeLines`, for those who need no bytes of paths. */
export async function* readTree(
  store: BlobStore,
  tree: Content,
  options: Abortable = {},
): AsyncGenerator<TreeEntry, void, undefined> {
  for await (const { entry } of readTreeLines(store, tree, options)) yield entry
}

const refused = (detail: string): BrambleError =>
  new BrambleError('import_refused', { detail: `a tree is not as it should be: ${detail}` })

async function* linesOf(source: AsyncIterable<Uint8Array>): AsyncGenerator<string, void, undefined> {
  let pieces: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of source) {
    let from = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, from)) {
      pieces.push(chunk.subarray(from, end))
      yield textOf(pieces)
      pieces = []
      bytes = 0
      from = end + 1
    }
    if (from === chunk.length) continue
    pieces.push(chunk.subarray(from))
    bytes += chunk.length - from
    if (bytes > MAX_LINE_BYTES) throw refused('a line is too long')
  }
  if (bytes > 0) throw refused('its last line is cut off')
}

const textOf = (pieces: readonly Uint8Array[]): string => {
  const [first] = pieces
  const line = first && pieces.length === 1 ? first : Buffer.concat(pieces)
  return Buffer.from(line.buffer, line.byteOffset, line.length).toString()
}
