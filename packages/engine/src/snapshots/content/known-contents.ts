import type { BlobStore } from '@bramble/blobs'
import type { SnapshotManifest } from '@bramble/protocol'
import type { Abortable, BytePath, SealStore } from '@bramble/runtime'
import type { FileEntry } from './read-ahead.ts'
import { readTreeLines, type TreeLine } from './read-tree.ts'
import type { KnownContent } from './store-tree.ts'

/** A snapshot that what is stored descends from. */
export interface Ancestor {
  readonly manifest: SnapshotManifest
  /** The seal on this host whose files are those of the snapshot: what did not change since is not read at all. */
  readonly seal?: string | undefined
}

export interface KnownContents extends AsyncDisposable {
  /** What the ancestor has at the path of a file. To be asked in the order of the paths. */
  of(file: FileEntry): Promise<KnownContent | undefined>
}

/** Asks for the next of a sorted sequence that is at `path`. */
const seek = <T>(source: AsyncIterator<T>, pathOf: (item: T) => BytePath) => {
  let current: IteratorResult<T> | undefined
  return async (path: BytePath): Promise<T | undefined> => {
    current ??= await source.next()
    while (!current.done && pathOf(current.value) < path) current = await source.next()
    return !current.done && pathOf(current.value) === path ? current.value : undefined
  }
}

/**
 * What an ancestor has of files: the version that its seal says, and the content that its tree says. A file whose version is
 * still the same has the same bytes.
 */
export const knownContents = (
  store: BlobStore,
  seals: SealStore,
  { manifest, seal }: Ancestor,
  options: Abortable,
): KnownContents => {
  const sealed = seal === undefined ? undefined : seals.entries(seal, options)[Symbol.asyncIterator]()
  const stored = readTreeLines(store, manifest.filesystem.tree, options)
  const sealedAt = sealed && seek(sealed, ({ path }) => path)
  const storedAt = seek<TreeLine>(stored, ({ path }) => path)
  return {
    of: async ({ path, version }) => {
      const before = await sealedAt?.(path)
      const line = await storedAt(path)
      if (line?.entry.type !== 'file') return undefined
      const same = version !== undefined && before?.type === 'file' && before.version === version
      return { content: line.entry.content, same }
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all([sealed?.return?.(), stored.return()])
    },
  }
}
