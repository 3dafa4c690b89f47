import { contentWriter, type Lease, readContent } from '@bramble/blobs'
import {
  BrambleError,
  type Content,
  MANIFEST_VERSION,
  type MergeRequest,
  type MergeResponse,
  type Snapshot,
  type SnapshotManifest,
  type TreeEntry,
} from '@bramble/protocol'
import type { BytePath, LocalImage } from '@bramble/runtime'
import type { InstanceContext } from '../instances/instances.ts'
import type { MergeFiles, Tree } from '../merge/merge.ts'
import { mergeTrees } from '../merge/merge-trees.ts'
import type { SnapshotRow } from '../store/snapshot-tables.ts'
import { insertSnapshot, sourceOf } from '../store/snapshots.ts'
import { storeManifest } from './content/manifest.ts'
import { readTree } from './content/read-tree.ts'
import { storeTree } from './content/store-tree.ts'
import { pathOfEntry, toLayerEntry } from './content/tree-entry.ts'
import { type Context, timeText } from './context.ts'
import { imageFilesOf } from './image-files.ts'
import { assertRoom, LEASE_MS } from './keep.ts'
import { commonStates, isSnapshot } from './lineage.ts'
import { snapshotOf } from './record.ts'
import { mirror } from './registry.ts'
import { type FoundState, findState } from './state-ref.ts'
import { signalOf } from './take.ts'
import { type StoredState, storedAncestor, storedState } from './trees.ts'

interface Base {
  /** A snapshot; the instance that it is a state of; or the digest of the image. */
  readonly id: string
  /** The instance that it is a state of, where it is no snapshot. */
  readonly instance?: string | undefined
  /** Undefined: the image itself. */
  readonly manifest: SnapshotManifest | undefined
}

interface Folding {
  readonly request: MergeRequest
  readonly owner: InstanceContext
  readonly lease: Lease
  readonly signal: AbortSignal
  readonly image: LocalImage
  readonly ours: StoredState
  readonly branches: readonly StoredState[]
}

/** `merge` of `Snapshots`. */
export const foldBranches = async (
  context: Context,
  request: MergeRequest,
  owner: InstanceContext,
): Promise<MergeResponse> => {
  const { tenant } = owner
  const signal = signalOf(context, owner)
  await assertRoom(context, owner)
  const found = await Promise.all(request.branches.map((ref) => findState(context, ref, tenant)))
  await using lease = await context.blobs.leases.acquire({ ttlMs: LEASE_MS })
  const branches: StoredState[] = []
  for (const state of found) branches.push(await storedState(context, state, { tenant, lease, signal }))
  const [ours] = branches
  if (!ours) throw new BrambleError('invalid_request', { detail: '`branches` is empty' })
  const { digest } = ours.manifest.image
  for (const { manifest } of branches) assertSameImage(manifest, digest)
  const image = await context.obtainImage(digest, { signal })
  const folding = { request, owner, lease, signal, image, ours, branches }
  const base = await baseOf(context, folding)
  const { entries, ...merged } = await mergeTrees(
    {
      base: treeOf(context, base.manifest, signal),
      branches: branches.map(({ manifest }, index) => ({
        ref: request.branches[index] ?? '',
        tree: treeOf(context, manifest, signal),
      })),
      strategy: request.strategy,
      signal,
    },
    filesOf(context, folding),
  )
  const snapshot = entries && (await keepMerged(context, folding, base, entries))
  return { ...(snapshot && { snapshot }), base: base.id, ...merged, conflicts: [...merged.conflicts] }
}

const assertSameImage = ({ image }: SnapshotManifest, digest: string): void => {
  if (image.digest !== digest)
    throw new BrambleError('conflict', {
      detail: `what is to be merged is of different images: ${image.digest} and ${digest}`,
    })
}

const treeOf = ({ blobs }: Context, manifest: SnapshotManifest | undefined, signal: AbortSignal): Tree => ({
  entries: manifest ? readTree(blobs, manifest.filesystem.tree, { signal }) : [],
})

/** As it was given; else the nearest state that all descend from and that is still kept; else their image. */
const baseOf = async (context: Context, folding: Folding): Promise<Base> => {
  const { request, owner, image, ours, branches, lease, signal } = folding
  const { tenant } = owner
  const wish = { tenant, lease, signal }
  if (request.base !== undefined) {
    const state: FoundState = await findState(context, request.base, tenant)
    const { manifest } = await storedState(context, state, wish)
    assertSameImage(manifest, image.digest)
    return { id: state.id, manifest, ...(state.kind === 'instance' && { instance: state.id }) }
  }
  const common = await commonStates(
    context,
    tenant,
    branches.map(({ states }) => states),
  )
  for (const state of common) {
    const manifest = await storedAncestor(context, state, image, ours.manifest.config, wish)
    if (manifest?.image.digest !== image.digest) continue
    const instance = isSnapshot(state) ? undefined : await sourceOf(context.db, tenant, state)
    return { id: instance ?? state, manifest, instance }
  }
  if (common.length > 0)
    throw new BrambleError('conflict', {
      detail: 'what they have in common is not kept any more: give the `base` that they are to be compared with',
    })
  return { id: image.digest, manifest: undefined }
}

const filesOf = ({ blobs }: Context, { image, lease, signal }: Folding): MergeFiles => ({
  read: async ({ content }) => {
    const pieces: Uint8Array[] = []
    for await (const piece of readContent(blobs, content, { signal })) pieces.push(piece)
    return Buffer.concat(pieces)
  },
  image: imageFilesOf(image.rootfs),
  write: async (bytes) => {
    const writer = contentWriter({ store: blobs, lease, temperature: 'cold' })
    const content = await writer.add([bytes], { signal })
    await writer.finish()
    return content()
  },
})

const keepMerged = async (
  context: Context,
  folding: Folding,
  base: Base,
  entries: readonly TreeEntry[],
): Promise<Snapshot> => {
  const { request, owner, lease, signal, image, ours, branches } = folding
  const { blobs, clock } = context
  const contents = new Map<BytePath, Content>()
  async function* layer() {
    for (const entry of entries) {
      const path = pathOfEntry(entry)
      if (entry.type === 'file') contents.set(path, entry.content)
      yield toLayerEntry(entry, path)
    }
  }
  const stored = await storeTree({
    store: blobs,
    lease,
    entries: layer(),
    known: async ({ path }) => {
      const content = contents.get(path)
      contents.delete(path)
      return content && { content, same: true }
    },
    read: () => {
      throw new BrambleError('internal', { detail: 'a merged file has no content' })
    },
    signal,
  })
  const { tree, entries: count, sizeBytes, stats } = stored
  const parent = isSnapshot(base.id) ? base.id : undefined
  const now = timeText(clock.now())
  const manifest: SnapshotManifest = {
    version: MANIFEST_VERSION,
    kind: 'bramble.snapshot',
    takenAt: now,
    image: ours.manifest.image,
    ...(parent !== undefined && { parent }),
    filesystem: { tree, entries: count, sizeBytes },
    config: ours.manifest.config,
    labels: request.labels,
  }
  const { hash, storedBytes } = await storeManifest(blobs, lease, manifest, { signal })
  const added_bytes = stats.newStoredBytes + storedBytes
  await assertRoom(context, owner, added_bytes)
  const row: SnapshotRow = {
    tenant: owner.tenant,
    hash,
    key_id: owner.keyId,
    name: request.name ?? null,
    labels: JSON.stringify(request.labels),
    origin: 'merge',
    source: base.instance ?? null,
    parent: parent ?? null,
    image: ours.manifest.image.name ?? image.digest,
    image_digest: image.digest,
    entries: count,
    files_bytes: sizeBytes,
    memory: null,
    trusted: 1,
    added_bytes,
    frozen_ms: null,
    created_at: now,
    expires_at: null,
    stored: 'local',
    mirrored: 0,
  }
  const parents = [...new Set(branches.flatMap(({ states }) => states))]
  await insertSnapshot(context.db, { row, parents })
  await mirror(context, row)
  context.notice({ type: 'snapshot', origin: 'merge' })
  return snapshotOf(row)
}
