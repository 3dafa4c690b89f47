import { type BlobHash, type Snapshot, toBrambleError } from '@bramble/protocol'
import type { InstanceContext } from '../instances/instances.ts'
import type { SnapshotRow } from '../store/snapshot-tables.ts'
import { changeSnapshot, insertSnapshot } from '../store/snapshots.ts'
import { exportSnapshot } from './archive/export-snapshot.ts'
import { type ImportedSnapshot, importSnapshot } from './archive/import-snapshot.ts'
import { type Context, timeText } from './context.ts'
import { assertRoom, LEASE_MS, memoryText } from './keep.ts'
import { snapshotOf } from './record.ts'
import { changeOf, findSnapshot, mirror } from './registry.ts'
import type { ExportOptions, ImportRequest } from './snapshots.ts'
import { signalOf } from './take.ts'

/** `export` of `Snapshots`. */
export const exportOf = async (
  context: Context,
  ref: string,
  tenant: string,
  { memory, signal }: ExportOptions,
): Promise<AsyncIterable<Uint8Array>> => {
  const row = await findSnapshot(context, ref, tenant)
  return await exportSnapshot({ store: context.blobs, hash: row.hash as BlobHash, memory, signal })
}

/** `import` of `Snapshots`. */
export const importOf = async (
  context: Context,
  source: AsyncIterable<Uint8Array>,
  request: ImportRequest,
  owner: InstanceContext,
): Promise<Snapshot> => {
  const { blobs, stagingDirectory } = context
  await assertRoom(context, owner)
  await using lease = await blobs.leases.acquire({ ttlMs: LEASE_MS })
  const signal = signalOf(context, owner)
  const imported = await importSnapshot({ store: blobs, source, stagingDirectory, lease, signal })
  await assertRoom(context, owner, imported.newStoredBytes)
  const known = await knownOf(context, imported.hash, owner.tenant)
  if (known) return await addToKnown(context, known, imported, request)
  const row = rowOf(context, imported, request, owner)
  const { parent } = imported.manifest
  await insertSnapshot(context.db, { row, parents: parent === undefined ? [] : [parent] })
  await mirror(context, row)
  context.notice({ type: 'snapshot', origin: 'import' })
  return snapshotOf(row)
}

/** What the tenant has of it already, on this node or another one of the store. */
const knownOf = async (context: Context, hash: string, tenant: string): Promise<SnapshotRow | undefined> => {
  try {
    return await findSnapshot(context, hash, tenant)
  } catch (error) {
    // What only another node may know is no reason to have none.
    const { code } = toBrambleError(error)
    if (code !== 'not_found' && code !== 'store_unavailable') throw error
    return undefined
  }
}

/** One that is there stays what it is, with what was asked for beside. Equal bytes are trusted as before. */
const addToKnown = async (
  context: Context,
  known: SnapshotRow,
  { newStoredBytes }: ImportedSnapshot,
  { name, labels, trustMemory = false }: ImportRequest,
): Promise<Snapshot> => {
  await changeSnapshot(context.db, known, {
    trusted: Number(trustMemory || known.trusted === 1),
    added_bytes: known.added_bytes + newStoredBytes,
    ...(newStoredBytes > 0 && { stored: 'local' }),
  })
  const had = JSON.parse(known.labels) as Record<string, string>
  return await changeOf(context, known.hash, known.tenant, {
    ...(name !== undefined && { name }),
    ...(labels && { labels: { ...had, ...labels } }),
  })
}

const rowOf = (
  { clock }: Context,
  { manifest, hash, newStoredBytes }: ImportedSnapshot,
  { name, labels = {}, trustMemory = false }: ImportRequest,
  { tenant, keyId }: InstanceContext,
): SnapshotRow => ({
  tenant,
  hash,
  key_id: keyId,
  name: name ?? null,
  labels: JSON.stringify(labels),
  origin: 'import',
  source: null,
  parent: manifest.parent ?? null,
  image: manifest.image.name ?? manifest.image.digest,
  image_digest: manifest.image.digest,
  entries: manifest.filesystem.entries,
  files_bytes: manifest.filesystem.sizeBytes,
  memory: manifest.memory ? memoryText(manifest.memory) : null,
  trusted: Number(trustMemory),
  added_bytes: newStoredBytes,
  frozen_ms: null,
  created_at: timeText(clock.now()),
  expires_at: null,
  stored: 'local',
  mirrored: 0,
})
