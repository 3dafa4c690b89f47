import type { BlobStore } from '@bramble/blobs'
import type { BlobHash, Content, SnapshotManifest, TreeEntry } from '@bramble/protocol'
import type { Abortable, BytePath } from '@bramble/runtime'
import { readTreeLines } from '../content/read-tree.ts'

export interface NeededBlob {
  readonly hash: BlobHash
  readonly sizeBytes: number
}

/** Told when all pieces of something have been given, and so are where the reader puts them. */
export interface BlobWalk {
  content?(content: Content, what: string): Promise<void> | void
  entry?(entry: TreeEntry, path: BytePath): Promise<void> | void
}

/**
 * The blobs that a manifest needs beside itself, each once: those of the tree, of the memory's files by name, of the tree's files in
 * the order of their paths. The tree is read from the store when its blobs have been taken: so whoever receives a snapshot in
 * this order knows at every blob which one is to come.
 */
export async function* snapshotBlobs(
  store: BlobStore,
  manifest: SnapshotManifest,
  walk: BlobWalk = {},
  options: Abortable = {},
): AsyncGenerator<NeededBlob, void, undefined> {
  const seen = new Set<BlobHash>()
  const fresh = function* ({ pieces }: Content): Generator<NeededBlob, void, undefined> {
    for (const { blob, sizeBytes } of pieces) {
      if (seen.has(blob)) continue
      seen.add(blob)
      yield { hash: blob, sizeBytes }
    }
  }
  const { tree } = manifest.filesystem
  yield* fresh(tree)
  await walk.content?.(tree, 'the tree')
  const files = Object.entries(manifest.memory?.files ?? {}).sort(([left], [right]) => (left < right ? -1 : 1))
  for (const [name, content] of files) {
    yield* fresh(content)
    await walk.content?.(content, `the memory file ${name}`)
  }
  for await (const { entry, path } of readTreeLines(store, tree, options)) {
    await walk.entry?.(entry, path)
    if (entry.type !== 'file') continue
    yield* fresh(entry.content)
    await walk.content?.(entry.content, entry.path)
  }
}
