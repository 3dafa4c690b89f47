import { type BlobHash, BrambleError, type SnapshotDiff } from '@bramble/protocol'
import { diffTrees } from '../merge/diff-trees.ts'
import { readManifest } from './content/manifest.ts'
import { readTree } from './content/read-tree.ts'
import type { Context } from './context.ts'
import { imageFilesOf } from './image-files.ts'
import { findSnapshot } from './registry.ts'

/** `diff` of `Snapshots`. */
export const diffSnapshots = async (
  context: Context,
  from: string,
  to: string,
  tenant: string,
  given: AbortSignal | undefined,
): Promise<SnapshotDiff> => {
  const { blobs, closing } = context
  const signal = given ? AbortSignal.any([given, closing.signal]) : closing.signal
  const rows = [await findSnapshot(context, from, tenant), await findSnapshot(context, to, tenant)] as const
  const [before, after] = rows
  if (before.image_digest !== after.image_digest)
    throw new BrambleError('conflict', {
      detail: `they are of different images: ${before.image_digest} and ${after.image_digest}`,
    })
  const treeOf = async (hash: string) => {
    const { filesystem } = await readManifest(blobs, hash as BlobHash, { signal })
    return { entries: readTree(blobs, filesystem.tree, { signal }) }
  }
  const image = imageFilesOf((await context.obtainImage(before.image_digest, { signal })).rootfs)
  const diff = await diffTrees(await treeOf(before.hash), await treeOf(after.hash), image, { signal })
  return { from: before.hash as BlobHash, to: after.hash as BlobHash, ...diff }
}
