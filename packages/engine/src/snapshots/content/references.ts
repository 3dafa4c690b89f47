import type { BlobStore } from '@bramble/blobs'
import type { BlobHash, Content } from '@bramble/protocol'
import type { Abortable } from '@bramble/runtime'
import { readManifest } from './manifest.ts'
import { readTreeLines } from './read-tree.ts'

/**
 * Every blob that a snapshot needs, its manifest first; one may come several times. Rejects where one of them that says
 * what others are needed is not there or damaged: then nobody knows what the snapshot needs.
 */
export async function* references(
  store: BlobStore,
  hash: BlobHash,
  options: Abortable = {},
): AsyncGenerator<BlobHash, void, undefined> {
  yield hash
  const manifest = await readManifest(store, hash, options)
  yield* piecesOf(manifest.filesystem.tree)
  for (const content of Object.values(manifest.memory?.files ?? {})) yield* piecesOf(content)
  let before: BlobHash | undefined
  for await (const { entry } of readTreeLines(store, manifest.filesystem.tree, options)) {
    if (entry.type !== 'file') continue
    for (const blob of piecesOf(entry.content)) {
      // Small files lie in one pack with those beside them.
      if (blob !== before) yield blob
      before = blob
    }
  }
}

function* piecesOf(content: Content): Generator<BlobHash, void, undefined> {
  for (const { blob } of content.pieces) yield blob
}
